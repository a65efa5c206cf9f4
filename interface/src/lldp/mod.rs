//! LLDP (IEEE 802.1AB): which port of which switch a NIC is connected to.
