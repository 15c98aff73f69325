package plan

import "fmt"

// Pairs gives each DHCP node its partner, if it has one. A node has one partner alone, and is
// that one's: segments with two servers, each with a part of the pool, are gone through in
// the order of the plan, and two that are both free yet become a pair. In other segments each
// serves from its part without the other's knowledge.
func Pairs(p *Plan) map[string]string {
	pairs := map[string]string{}
	for i := range p.Segments {
		pair(pairs, &p.Segments[i])
	}
	return pairs
}

// pair pairs the two servers of a segment when neither is anybody else's. It is false when
// there are two, and one is.
func pair(pairs map[string]string, s *Segment) bool {
	if len(s.Servers) != 2 || s.Pool.Size() < 2 { // else a server has no part
		return true
	}
	a, b := s.Servers[0], s.Servers[1]
	if pairs[a] == "" && pairs[b] == "" {
		pairs[a], pairs[b] = b, a
	}
	return pairs[a] == b
}

// checkPairs warns of segments whose two servers cannot be a pair.
func (d *deriver) checkPairs() {
	pairs := map[string]string{}
	for _, s := range d.drafts {
		if pair(pairs, &s.Segment) {
			continue
		}
		a, b := s.Servers[0], s.Servers[1]
		taken, by := a, pairs[a]
		if by == "" {
			taken, by = b, pairs[b]
		}
		d.warn(s.raw.of("dhcp"), fmt.Sprintf("segment %s is served by %s and %s, which are no pair: %s is one with %s already; when one of them dies, the other gives its devices here new addresses", s.Name, a, b, taken, by),
			fmt.Sprintf("the same two nodes wherever two serve: dhcp: [%s, %s], or one alone: dhcp: [%s]", taken, by, taken))
	}
}
