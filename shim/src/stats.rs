//! Counters of a shim, by reason.

use serde::{Deserialize, Serialize};

macro_rules! stats {
    ($( $name:ident, $text:literal; )*) => {
        /// What happened since the start, by reason.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct ShimStats { $( #[doc = $text] pub $name: u64, )* }

        impl ShimStats {
            /// Every counter: name, meaning, value.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [ $( (stringify!($name), $text, self.$name), )* ].into_iter()
            }
        }
    };
}

stats! {
    contexts_made, "Contexts that came into being.";
    contexts_established, "Exchanges that ended well.";
    contexts_ended, "Contexts that ended.";
    contexts_quiet, "Of these, because nothing was sent or received for long.";
    contexts_kept, "Quiet contexts that went on because sockets are connected between their ULIDs.";
    contexts_refused, "Peers refused because the vserver has its number of contexts.";
    contexts_refused_prefix, "Peers refused because their prefix has its number of contexts.";
    contexts_confused, "Contexts whose tag the peer used for another one.";
    initiations_put_off, "Contexts not set up for traffic because too many were, or too fast.";
    initiations_failed, "Peers that did not answer.";
    initiations_unsupported, "Peers that do not know the protocol.";
    holds_forgotten, "Peers asked again early because too many did not answer.";
    flows_forgotten, "Pairs of ULIDs no longer counted because there were too many.";
    recoveries, "Contexts that the peer had lost.";
    rewritten_out, "Packets sent to a locator that is not the ULID.";
    rewritten_in, "Packets received for a context by its tag.";
    payload_unknown_tag, "Packets whose tag names no context here.";
    payload_wrong_state, "Packets for a context that is being set up.";
    control_sent, "Control messages sent.";
    control_received, "Control messages received.";
    control_unsent, "Control messages not sent because too many waited.";
    control_too_long, "Control messages not sent because they are longer than 1,280 bytes.";
    control_malformed, "Control messages with impossible lengths, options or addresses.";
    control_checksum, "Control messages with a wrong checksum.";
    control_unknown_type, "Control messages of an unknown type.";
    control_critical_option, "Control messages with an unknown critical option.";
    control_wrong_ulid, "Control messages for a ULID that is not ours or not unicast.";
    control_wrong_state, "Control messages that the state of their context does not take.";
    control_no_context, "Answers that belong to no context.";
    control_unknown_tag, "Control messages whose tag names no context here.";
    control_wrong_locators, "Control messages over locators that their context does not have.";
    validator_wrong, "I2 and I2bis whose validator is not ours or is too old.";
    replayed, "I2 and I2bis that were answered before, or are older than that; updates and lists of locators that a newer one replaced.";
    locator_unproved, "Messages whose locators, or source, are not proved to belong to the ULID.";
    locators_revoked, "Locators of peers forgotten because proofs of their kind are taken no longer.";
    pds_wrong, "Messages whose CGA parameters are not those of the ULID.";
    generation_wrong, "Preferences for another locator list.";
    preferences_wrong, "Preferences for another number of locators.";
    limited_i1, "I1 not sent: limited.";
    limited_r1, "I1 not answered: limited.";
    limited_r2, "I2 not answered: limited.";
    limited_r1bis, "Unknown tags not answered: limited.";
    limited_error, "Errors not told: limited.";
    limited_lists, "I2, I2bis, R2 and updates not looked into: limited.";
    limited_signatures, "Signatures not verified, and their message dropped: limited.";
    limited_again, "Messages of a peer that did not make us repeat ours: limited.";
    errors_sent, "Errors told to peers.";
    errors_received, "Errors that peers told us of a context of ours.";
    updates_sent, "Update requests sent, repeated ones counted.";
    updates_acknowledged, "Update requests that were acknowledged.";
    updates_received, "Update requests taken.";
    own_changes_continued, "Calls after which contexts still had to learn of a change of our locators.";
    icmp_used, "ICMP errors that the shim acted on.";
    icmp_mapped, "ICMP errors about rewritten packets, told to the transport.";
    icmp_unmatched, "ICMP errors about packets of protocol 140 that no context sent.";
    switches, "Contexts that went over to another locator pair.";
    events_lost, "Events that nobody took in time.";
}
