package resolver

import "github.com/hotstage/hotstage/internal/wire"

// blockTTL is of the answers to names that the plan blocks, in seconds: short, so that a name
// blocked by mistake is back soon after it is taken out.
const blockTTL = 60

// block makes the name and all below it resolve no more.
func (l *local) block(name string) {
	if w := pack(name); len(w) > 1 {
		l.blocks[string(w)] = w
	}
}

// blocked is the blocked name that the name is or lies below, or nil. A name that the plan
// itself gives addresses is not blocked.
func (l *local) blocked(name []byte) (apex []byte) {
	if len(l.blocks) == 0 || l.hosts[string(name)] != nil {
		return nil
	}
	for ; len(name) > 1; name = parent(name) {
		if apex = l.blocks[string(name)]; apex != nil {
			return apex
		}
	}
	return nil
}

// deny appends the answer that a blocked name does not exist, and that it is blocked (RFC
// 8914 section 4.16).
func (l *local) deny(out []byte, q *wire.DNSQuery, apex []byte, size int) []byte {
	a := wire.BeginDNSAnswer(out, q, wire.DNSFlagAA, wire.DNSNXDomain)
	a.SOA(2, apex, l.server, l.mailbox, 1, blockTTL)
	reply := a.Finish(q, wire.DNSNXDomain, ourSize)
	return wire.AddDNSError(reply, len(out), wire.DNSEDEBlocked, "by the event's network", size)
}
