// Package wire holds the packet codecs that are ours because they stand on a hot path:
// DHCPv4 with the frame around it, and DNS. They allocate nothing per packet, never panic,
// and are fuzzed against a library's codec.
package wire
