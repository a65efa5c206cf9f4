//! Failover groups: several members behind one interface, as IPMP has them.
