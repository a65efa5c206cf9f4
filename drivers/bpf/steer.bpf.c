/* SPDX-License-Identifier: (MIT OR GPL-2.0)
 *
 * Ours or the kernel's: which frames of a shared NIC go to the vservers.
 *
 * `steer` runs on every received frame. Unicast frames, ARP requests and neighbour solicitations
 * for an address in `V4` or `V6` are redirected to the AF_XDP socket of their queue, as are all
 * frames of an ethertype in `ETHERTYPES` (LACP, LLDP), behind up to two VLAN tags; all else is
 * passed to the kernel. XDP cannot clone, so frames that the kernel may want too (multicast,
 * broadcast, gratuitous ARP) are always passed, and `copy` selects of them what an AF_PACKET
 * socket hands to the vservers as well.
 *
 * The two programs must not both select one frame: `copy` only ever sees what `steer` passed.
 */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
/* Headers stand at even addresses, no better. */
#define HEADER __attribute__((packed, aligned(2)))

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) =
	(void *)BPF_FUNC_skb_load_bytes;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((__u16)__builtin_bswap16(x))
#define be32(x) ((__u32)__builtin_bswap32(x))
#else
#define be16(x) (x)
#define be32(x) (x)
#endif

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8
#define ETHERTYPE_IPV6 0x86dd
#define NEXT_HEADER_ICMPV6 58
#define ICMPV6_NEIGHBOUR_SOLICIT 135
#define ADDRESSES_MAX 65536

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__u16 ethertype;
} HEADER;

struct vlan {
	__u16 tci;
	__u16 ethertype;
} HEADER;

struct arp {
	__u16 hardware;
	__u16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__u16 operation;
	__u8 sender_mac[6];
	__u32 sender;
	__u8 target_mac[6];
	__u32 target;
} HEADER;

struct ipv4 {
	__u8 before[16];
	__u32 destination;
} HEADER;

struct address6 {
	__u32 word[4];
} HEADER;

struct ipv6 {
	__u8 before[6];
	__u8 next_header;
	__u8 hop_limit;
	struct address6 source;
	struct address6 destination;
} HEADER;

struct solicit {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 reserved;
	struct address6 target;
} HEADER;

/* One socket per receive queue; the size is set when loading. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} XSKS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ADDRESSES_MAX);
	__type(key, __u32);
	__type(value, __u8);
} V4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ADDRESSES_MAX);
	__type(key, struct address6);
	__type(value, __u8);
} V6 SEC(".maps");

/* Protocols of the link that are ours alone, by ethertype as it is on the wire. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u16);
	__type(value, __u8);
} ETHERTYPES SEC(".maps");

/* 0: frames redirected to a socket; 1: frames passed to the kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} COUNTERS SEC(".maps");

static __always_inline int ours4(__u32 address)
{
	return bpf_map_lookup_elem(&V4, &address) != 0;
}

static __always_inline int ours6(const struct address6 *address)
{
	struct address6 key = *address;

	return bpf_map_lookup_elem(&V6, &key) != 0;
}

static __always_inline int ours_arp(const struct arp *arp)
{
	if (arp->hardware != be16(1) || arp->protocol != be16(ETHERTYPE_IPV4) ||
	    arp->hardware_len != 6 || arp->protocol_len != 4)
		return 0;
	/* Announcements are for everybody's caches (RFC 5227 section 3). */
	if (arp->sender == arp->target)
		return 0;
	return ours4(arp->target);
}

/* A solicited-node group is shared by addresses, maybe the kernel's; the target is not. */
static __always_inline int ours_solicit(const struct ipv6 *ip, const void *end)
{
	const struct solicit *ns = (const void *)(ip + 1);

	if (ip->next_header != NEXT_HEADER_ICMPV6 || (const void *)(ns + 1) > end)
		return 0;
	return ns->type == ICMPV6_NEIGHBOUR_SOLICIT && ours6(&ns->target);
}

/* What comes most is asked for first. */
static __always_inline int ours_of(__u16 ethertype, const void *at, const void *end, int group)
{
	if (ethertype == be16(ETHERTYPE_IPV4)) {
		const struct ipv4 *ip = at;

		if ((const void *)(ip + 1) > end)
			return 0;
		return !group && ours4(ip->destination);
	}
	if (ethertype == be16(ETHERTYPE_IPV6)) {
		const struct ipv6 *ip = at;

		if ((const void *)(ip + 1) > end)
			return 0;
		return group ? ours_solicit(ip, end) : ours6(&ip->destination);
	}
	if (ethertype == be16(ETHERTYPE_ARP)) {
		const struct arp *arp = at;

		return (const void *)(arp + 1) <= end && ours_arp(arp);
	}
	return bpf_map_lookup_elem(&ETHERTYPES, &ethertype) != 0;
}

static __always_inline int is_tag(__u16 ethertype)
{
	return ethertype == be16(ETHERTYPE_VLAN) || ethertype == be16(ETHERTYPE_QINQ);
}

static __always_inline int ours(const void *data, const void *end)
{
	const struct ethernet *eth = data;
	const struct vlan *tag = (const void *)(eth + 1);
	int group;

	if ((const void *)tag > end)
		return 0;
	group = eth->destination[0] & 1;
	if (__builtin_expect(!is_tag(eth->ethertype), 1))
		return ours_of(eth->ethertype, tag, end, group);
	if ((const void *)(tag + 1) > end)
		return 0;
	if (is_tag(tag->ethertype)) {
		tag++;
		if ((const void *)(tag + 1) > end)
			return 0;
	}
	return ours_of(tag->ethertype, tag + 1, end, group);
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	int action = XDP_PASS;
	__u32 which;
	__u64 *count;

	/* Without a socket on this queue the frame is passed. */
	if (ours(data, end))
		action = bpf_redirect_map(&XSKS, ctx->rx_queue_index, XDP_PASS);
	which = action != XDP_REDIRECT;
	count = bpf_map_lookup_elem(&COUNTERS, &which);
	if (count)
		*count += 1;
	return action;
}

static __always_inline int copy4(struct __sk_buff *skb, __u32 at, int group)
{
	struct ipv4 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	/* The limited broadcast, also to one host: so DHCP servers answer who has no address. */
	if (ip.destination == be32(0xffffffff))
		return 1;
	if (!group)
		return 0;
	/* All hosts (IGMP queries, RFC 3376 section 4.1.12). */
	return ip.destination == be32(0xe0000001) || ours4(ip.destination);
}

static __always_inline int copy6(struct __sk_buff *skb, __u32 at)
{
	struct ipv6 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	/* All nodes: router advertisements, unsolicited neighbour advertisements, MLD queries. */
	if (ip.destination.word[0] == be32(0xff020000) && ip.destination.word[1] == 0 &&
	    ip.destination.word[2] == 0 && ip.destination.word[3] == be32(1))
		return 1;
	return ours6(&ip.destination);
}

/* Filter of the AF_PACKET socket: of the frames that `steer` passed, those to copy to us. */
SEC("socket")
int copy(struct __sk_buff *skb)
{
	struct ethernet eth;
	__u32 at = sizeof(eth);
	int take = 0;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return 0;
	/* The outer tag was moved out of the data before this runs; one more may be there. */
	if (is_tag(eth.ethertype)) {
		struct vlan tag;

		if (bpf_skb_load_bytes(skb, at, &tag, sizeof(tag)))
			return 0;
		eth.ethertype = tag.ethertype;
		at += sizeof(tag);
	}
	if (eth.ethertype == be16(ETHERTYPE_ARP)) {
		struct arp arp;

		if (bpf_skb_load_bytes(skb, at, &arp, sizeof(arp)))
			return 0;
		/*
		 * Announcements, and whoever speaks from an address of ours: a conflict, or the
		 * answer to a probe, whose target is 0.0.0.0 (RFC 5227 sections 2.1.1 and 2.4).
		 */
		take = arp.sender == arp.target || ours4(arp.sender);
	} else if (eth.ethertype == be16(ETHERTYPE_IPV4)) {
		take = copy4(skb, at, eth.destination[0] & 1);
	} else if (!(eth.destination[0] & 1)) {
		return 0;
	} else if (eth.ethertype == be16(ETHERTYPE_IPV6)) {
		take = copy6(skb, at);
	}
	return take ? -1 : 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
