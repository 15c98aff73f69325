package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/miekg/dns"
)

// Asked is a question or a client, and how often it is asked or asks.
type Asked struct {
	Name      string  `json:"name,omitempty"` // of a question
	Type      string  `json:"type,omitempty"`
	Client    string  `json:"client,omitempty"` // the address
	Device    string  `json:"device,omitempty"` // the client's name, when its lease has one
	PerSecond float64 `json:"per_second"`
	Share     float64 `json:"share"` // of all queries, 0 to 1
}

// Top is who asks what, of the last minutes: a query weighs half as much a minute later.
type Top struct {
	PerSecond float64 `json:"per_second"` // all queries whose question was read
	OneIn     int     `json:"one_in"`     // how many queries one that is counted stands for now
	Names     []Asked `json:"names"`
	Clients   []Asked `json:"clients"`
}

// Top returns up to n names and n clients, the busiest first. What asks for less than a
// thousandth of all may be missing or overstated by so much.
func (s *Server) Top(n int) Top {
	t := s.handler.top
	span, all := t.window(time.Now())
	rate := func(weight uint64) (perSecond, share float64) {
		return float64(weight) / span.Seconds(), float64(weight) / max(all, 1)
	}
	top := Top{PerSecond: all / span.Seconds(), OneIn: int(t.every.Load()), Names: []Asked{}, Clients: []Asked{}}
	at := map[Asked]int{}
	for _, h := range t.names(topCounters) {
		a := Asked{Name: wire.DNSNameString(h.key.name()), Type: typeString(h.key.typ())}
		perSecond, share := rate(h.weight)
		if i, ok := at[a]; ok { // with and without DNSSEC records
			top.Names[i].PerSecond += perSecond
			top.Names[i].Share += share
			continue
		}
		at[a] = len(top.Names)
		a.PerSecond, a.Share = perSecond, share
		top.Names = append(top.Names, a)
	}
	slices.SortStableFunc(top.Names, func(a, b Asked) int { return cmp.Compare(b.PerSecond, a.PerSecond) })
	top.Names = top.Names[:min(max(n, 0), len(top.Names))]
	for _, b := range t.busiest(n) {
		a := Asked{Client: b.client.String()}
		if s.handler.local.leases != nil {
			a.Device, _ = s.handler.local.leases.NameOf(b.client)
		}
		a.PerSecond, a.Share = rate(b.weight)
		top.Clients = append(top.Clients, a)
	}
	return top
}

// Flush drops the cached answers for the name and all below it, "." for all, and returns how
// many there were. A question that is being asked at this moment may still bring an answer
// from before.
func (s *Server) Flush(name string) (int, error) {
	apex, err := wire.PackDNSName(nil, strings.ToLower(name))
	if err != nil {
		return 0, fmt.Errorf("flush: %w", err)
	}
	return s.handler.cache.flush(apex), nil
}

// Where an answer came from.
const (
	FromCache = "cache"
	FromStale = "stale" // of the cache, expired, because nobody who could know has answered
	FromOwn   = "own"   // this node's: the event's names, leases, special names, refusals
	FromBlock = "block" // the plan's
	FromAsked = "asked" // another resolver
)

// Found is what an attendee would be told.
type Found struct {
	Name      string        `json:"name"`
	Type      string        `json:"type"`
	Rcode     string        `json:"rcode"`
	Flags     []string      `json:"flags"`
	From      string        `json:"from"` // one of the above
	Age       time.Duration `json:"age_ns,omitempty"`
	Left      time.Duration `json:"left_ns,omitempty"` // until it is asked for anew
	Took      time.Duration `json:"took_ns"`
	Answer    []string      `json:"answer"`
	Authority []string      `json:"authority,omitempty"`
	Reasons   []Reason      `json:"reasons,omitempty"`
}

// Reason is an extended error (RFC 8914).
type Reason struct {
	Code uint16 `json:"code"`
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
}

// ErrQuestion says that a name or a type cannot be asked for.
var ErrQuestion = errors.New("not a question")

// CheckQuestion makes a name or an address, and a type or "", into what can be asked for: of
// an address its name (PTR), else addresses (A). The error is ErrQuestion.
func CheckQuestion(name, typ string) (string, uint16, error) {
	if a, err := netip.ParseAddr(name); err == nil && (typ == "" || strings.EqualFold(typ, "PTR")) {
		r, err := dns.ReverseAddr(a.Unmap().WithZone("").String())
		return r, dns.TypePTR, err
	}
	if w, err := wire.PackDNSName(nil, name); err != nil || len(w) == 0 || name == "" {
		return "", 0, fmt.Errorf("%w: %q is no DNS name; give labels of 1 to 63 octets with dots between, 255 octets in all", ErrQuestion, name)
	}
	if typ == "" {
		return name, dns.TypeA, nil
	}
	if t, ok := dns.StringToType[strings.ToUpper(typ)]; ok {
		return name, t, nil
	}
	return "", 0, fmt.Errorf("%w: %q is no type of record; for example A, AAAA, MX, TXT, HTTPS, PTR", ErrQuestion, typ)
}

// Lookup asks as a client would, but for its share of the rate. The question comes from this
// machine; it is counted as one by TCP, and a miss is asked for outside.
func (s *Server) Lookup(ctx context.Context, name string, typ uint16) (Found, error) {
	w, err := wire.PackDNSName(nil, name)
	if err != nil {
		return Found{}, fmt.Errorf("lookup: %w", err)
	}
	begun := time.Now()
	packet := wire.AppendDNSQuery(nil, 1, wire.DNSFlagRD|wire.DNSFlagAD, w, typ, wire.DNSClassIN, ourSize, false)
	here := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var q wire.DNSQuery
	var k key
	found := Found{Name: wire.DNSNameString(w), Type: typeString(typ), From: FromOwn}
	reply, v := s.handler.handle(nil, packet, here, false, begun, &q, &k)
	switch v {
	case answer:
		s.handler.origin(&found, &k, begun)
	case wait:
		if reply, err = s.await(ctx, &k, q, here, begun); err != nil {
			return Found{}, fmt.Errorf("lookup: %w", err)
		}
		found.From = FromAsked
		if e := s.handler.cache.get(&k); e != nil && e.stale(time.Now()) {
			found.From, found.Age = FromStale, time.Since(e.stored)
		}
	default:
		return Found{}, fmt.Errorf("lookup: this resolver does not answer such a question")
	}
	found.Took = time.Since(begun)
	return found, found.read(reply)
}

// origin says where an answer that was there at once came from.
func (h *handler) origin(f *Found, k *key, now time.Time) {
	e := h.cache.get(k)
	switch {
	case k.n == 0:
		return
	case e == nil:
		if h.local.blocked(k.name()) != nil {
			f.From = FromBlock
		}
		return
	case e.fresh(now):
		f.From, f.Left = FromCache, e.ttl-now.Sub(e.stored)
	case e.stale(now) && e.held(now):
		f.From = FromStale
	default:
		return
	}
	f.Age = now.Sub(e.stored)
}

// read takes from the reply what a person wants to see.
func (f *Found) read(reply []byte) error {
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		return fmt.Errorf("lookup: read the answer: %w", err)
	}
	rcode := m.Rcode
	for _, r := range m.Extra {
		o, ok := r.(*dns.OPT)
		if !ok {
			continue
		}
		rcode |= o.ExtendedRcode() &^ 0xf
		for _, x := range o.Option {
			if e, ok := x.(*dns.EDNS0_EDE); ok {
				f.Reasons = append(f.Reasons, Reason{e.InfoCode, dns.ExtendedErrorCodeToString[e.InfoCode], e.ExtraText})
			}
		}
	}
	f.Rcode = dns.RcodeToString[rcode]
	f.Flags = []string{}
	for _, x := range []struct {
		set  bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.RecursionDesired, "rd"}, {m.RecursionAvailable, "ra"}, {m.AuthenticatedData, "ad"}, {m.CheckingDisabled, "cd"}} {
		if x.set {
			f.Flags = append(f.Flags, x.name)
		}
	}
	f.Answer = records(m.Answer)
	f.Authority = records(m.Ns)
	return nil
}

func records(all []dns.RR) []string {
	text := []string{}
	for _, r := range all {
		text = append(text, strings.ReplaceAll(r.String(), "\t", " "))
	}
	return text
}

func typeString(t uint16) string { return dns.Type(t).String() }
