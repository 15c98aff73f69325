package resolver

import (
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/plan"
)

// Encrypted is how the resolver is asked by TLS, QUIC and HTTPS.
type Encrypted struct {
	Name       string       // that the certificate is for
	Chain, Key string       // PEM files; both "": there is no certificate, and no such service
	Own        bool         // the event's authority has signed it, which devices do not know
	Must       bool         // the plan wants it: that there is none is a fault
	Hints      []netip.Addr // of Listen, what clients of every segment reach
}

// encrypted is what the plan says of it; nil when off.
func encrypted(p *plan.Plan) *Encrypted {
	e := p.Resolver.Encrypted
	if e.Mode == plan.EncryptedOff || e.Name == "" {
		return nil
	}
	return &Encrypted{Name: e.Name, Chain: e.Chain, Key: e.Key, Must: e.Mode == plan.EncryptedOn || e.Chain != ""}
}

// hints are the addresses but those of management, where attendees do not get.
func hints(p *plan.Plan, listen []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(listen), func(a netip.Addr) bool {
		return slices.ContainsFunc(p.Segments, func(s plan.Segment) bool {
			return s.Class == plan.Management && (s.IPv4.Contains(a) || s.IPv6.Contains(a))
		})
	})
}
