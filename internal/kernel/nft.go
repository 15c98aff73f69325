//go:build linux

package kernel

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Table is an nftables table of the family inet, whole: what it does not say is not there.
type Table struct {
	Name     string
	Sets     []Set
	Counters []string // named counters; their values outlive a rewriting of the table
	Timers   []Timer
	Chains   []Chain
}

// Set is a named set. Exactly one of the lists has elements, or none: then Kind says what
// it would be a set of.
type Set struct {
	Name  string
	Kind  SetKind
	Links []string       // names of links
	IP4   []netip.Prefix // may overlap
	IP6   []netip.Prefix
	Ports []uint16
	Types []uint8 // ICMPv6
}

// SetKind is the type of a set's elements.
type SetKind int

// The kinds of sets.
const (
	SetLinks SetKind = iota + 1
	SetIP4
	SetIP6
	SetPorts
	SetTypes
)

// Timer is a ct timeout object: how long connection tracking remembers a flow of one
// protocol that has been given to it.
type Timer struct {
	Name     string
	IPv6     bool
	Protocol uint8 // unix.IPPROTO_TCP, _UDP or _ICMP
	// States is by number of the state, in seconds: expr.CtStateTCPSYNSENT and so on. All
	// states of the protocol must be there.
	States map[uint16]uint32
}

// Chain is a list of rules, at a hook unless Hook is nil.
type Chain struct {
	Name     string
	Hook     *nftables.ChainHook
	Priority nftables.ChainPriority
	NAT      bool // of type nat, not filter
	Rules    []Rule
}

// Rule does its last part when all others match.
type Rule struct {
	Words string // for people, shown as the rule's comment; at most 120 bytes
	Parts []expr.Any
}

// R makes a rule of matches and a deed, in order.
func R(words string, parts ...[]expr.Any) Rule {
	return Rule{Words: words, Parts: slices.Concat(parts...)}
}

// Write puts the table into the calling thread's namespace in one transaction: either all
// of it stands, in place of what a table of that name had, or nothing has changed. Counters
// go on from where they were.
func (t *Table) Write() error {
	marks, err := t.marks()
	if err != nil {
		return fmt.Errorf("write nftables table %s: %w", t.Name, err)
	}
	counts, err := Counts(t.Name)
	if err != nil {
		return fmt.Errorf("write nftables table %s: %w", t.Name, err)
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("write nftables table %s: %w", t.Name, err)
	}
	k := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
	c.AddTable(k) // so that there is one to delete
	c.DelTable(k)
	c.AddTable(k)
	for _, name := range t.Counters {
		c.AddObj(&nftables.CounterObj{Table: k, Name: name, Packets: counts[name].Packets, Bytes: counts[name].Bytes})
	}
	for _, timer := range t.Timers {
		c.AddObj(&nftables.NamedObj{Table: k, Name: timer.Name, Type: nftables.ObjTypeCtTimeout, Obj: timer.object()})
	}
	for i, set := range t.Sets {
		x := set.kernel(k)
		x.ID = uint32(i + 1) // the library's own numbering is not safe for concurrent use
		if err := c.AddSet(x, set.elements()); err != nil {
			return fmt.Errorf("write nftables table %s: set %s: %w", t.Name, set.Name, err)
		}
	}
	// Chains first: rules jump to them.
	for _, chain := range t.Chains {
		c.AddChain(chain.kernel(k))
	}
	for i, chain := range t.Chains {
		for j, r := range chain.Rules {
			c.AddRule(&nftables.Rule{Table: k, Chain: &nftables.Chain{Name: chain.Name}, Exprs: r.Parts, UserData: marks[i][j]})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w%s", t.Name, err, nftHint(err))
	}
	return nil
}

func nftHint(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "; run as root, or with CAP_NET_ADMIN"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return "; the kernel lacks a part of nf_tables: modprobe nf_tables nft_ct nft_nat nft_masq nft_hash nft_objref nft_chain_nat"
	}
	return ""
}

// DeleteTable removes the table of that name; one that is not there is no error.
func DeleteTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	k := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	c.AddTable(k)
	c.DelTable(k)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

// Types of user data of a rule: 0 is the comment that nft shows, ours is one that it does not.
const (
	dataComment = 0
	dataMark    = 72
)

// marks is the user data of every rule: its words, and a fingerprint of the whole table with
// the rule's place in it. Rules can't be changed in place, so a rule that has the right mark
// is the right rule, and reading marks back is enough to see any drift of rules.
func (t *Table) marks() ([][][]byte, error) {
	sum := sha256.New()
	w := json.NewEncoder(sum)
	plain := *t
	plain.Chains = nil
	if err := w.Encode(plain); err != nil {
		return nil, err
	}
	for _, chain := range t.Chains {
		head := chain
		head.Rules = nil
		if err := w.Encode(head); err != nil {
			return nil, err
		}
		for _, r := range chain.Rules {
			for _, part := range r.Parts {
				b, err := expr.Marshal(byte(nftables.TableFamilyINet), part)
				if err != nil {
					return nil, fmt.Errorf("chain %s: rule %q: %w", chain.Name, r.Words, err)
				}
				sum.Write(b)
			}
		}
	}
	whole := sum.Sum(nil)[:8]
	all := make([][][]byte, len(t.Chains))
	for i, chain := range t.Chains {
		for j, r := range chain.Rules {
			data := userdata.AppendString(nil, dataComment, r.Words[:min(len(r.Words), 120)])
			place := binary.BigEndian.AppendUint16(slices.Clone(whole), uint16(j))
			all[i] = append(all[i], userdata.Append(data, dataMark, place))
		}
	}
	return all, nil
}

func (c Chain) kernel(t *nftables.Table) *nftables.Chain {
	k := &nftables.Chain{Name: c.Name, Table: t}
	if c.Hook != nil {
		accept := nftables.ChainPolicyAccept
		k.Hooknum, k.Priority, k.Policy, k.Type = c.Hook, &c.Priority, &accept, nftables.ChainTypeFilter
		if c.NAT {
			k.Type = nftables.ChainTypeNAT
		}
	}
	return k
}

func (t Timer) object() *expr.CtTimeout {
	o := &expr.CtTimeout{L3Proto: unix.NFPROTO_IPV4, L4Proto: t.Protocol, Policy: t.States}
	if t.IPv6 {
		o.L3Proto = unix.NFPROTO_IPV6
	}
	return o
}

// Seconds is d for a timer: rounded up, at least 1.
func Seconds(d time.Duration) uint32 {
	return uint32(max(1, (d+time.Second-1)/time.Second))
}

func (s Set) kernel(t *nftables.Table) *nftables.Set {
	k := &nftables.Set{Table: t, Name: s.Name}
	switch s.Kind {
	case SetLinks:
		k.KeyType, k.KeyByteOrder = nftables.TypeIFName, binaryutil.NativeEndian
	case SetIP4:
		k.KeyType, k.Interval = nftables.TypeIPAddr, true
	case SetIP6:
		k.KeyType, k.Interval = nftables.TypeIP6Addr, true
	case SetPorts:
		k.KeyType, k.KeyByteOrder = nftables.TypeInetService, binaryutil.BigEndian
	case SetTypes:
		k.KeyType = nftables.TypeICMP6Type
	}
	return k
}

// elements are the set's, sorted and without those that others cover.
func (s Set) elements() (all []nftables.SetElement) {
	for _, name := range s.Links {
		all = append(all, nftables.SetElement{Key: linkName(name)})
	}
	for _, r := range merge(append(slices.Clone(s.IP4), s.IP6...)) {
		all = append(all, nftables.SetElement{Key: r.from.AsSlice()})
		if r.to.IsValid() {
			all = append(all, nftables.SetElement{Key: r.to.AsSlice(), IntervalEnd: true})
		}
	}
	for _, p := range s.Ports {
		all = append(all, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, p)})
	}
	for _, t := range s.Types {
		all = append(all, nftables.SetElement{Key: []byte{t}})
	}
	slices.SortFunc(all, compareElements)
	return slices.CompactFunc(all, func(a, b nftables.SetElement) bool { return compareElements(a, b) == 0 })
}

func compareElements(a, b nftables.SetElement) int {
	end := func(e nftables.SetElement) int {
		if e.IntervalEnd {
			return 1
		}
		return 0
	}
	return cmp.Or(bytes.Compare(a.Key, b.Key), end(a)-end(b))
}

// span is the addresses from from up to, without, to; to is invalid at the family's end.
type span struct{ from, to netip.Addr }

// merge makes disjoint spans, sorted, of prefixes of one family.
func merge(all []netip.Prefix) (spans []span) {
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), a.Bits()-b.Bits())
	})
	for _, p := range all {
		s := span{p.Masked().Addr(), after(p)}
		if n := len(spans); n > 0 && (!spans[n-1].to.IsValid() || !spans[n-1].to.Less(s.from)) {
			if spans[n-1].to.IsValid() && (!s.to.IsValid() || spans[n-1].to.Less(s.to)) {
				spans[n-1].to = s.to
			}
			continue
		}
		spans = append(spans, s)
	}
	return spans
}

// after is the first address behind the prefix; invalid behind the family's last.
func after(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Next()
}

// linkName is a link's name as the kernel compares it.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b[:unix.IFNAMSIZ-1], name)
	return b
}
