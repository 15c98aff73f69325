//go:build linux

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// We read by netlink ourselves: the library cannot decode every expression that it can
// encode (rt, for MSS clamping), and it fails on ct timeout objects.

// nftDump asks for a list of things of the inet table and returns their attributes by type.
func nftDump(what int, table string) (all []map[uint16][]byte, err error) {
	err = dump(func() error {
		all = nil
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|what, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_INET, Version: nl.NFNETLINK_V0})
		req.AddData(nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(table))) // number 1 in all kinds
		messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if len(m) < nl.SizeofNfgenmsg || m[0] != unix.NFPROTO_INET {
				continue
			}
			one, err := nftAttributes(m[nl.SizeofNfgenmsg:])
			if err != nil {
				return err
			}
			if text(one[unix.NFTA_TABLE_NAME]) == table { // old kernels list chains of all tables
				all = append(all, one)
			}
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		err = nil // no such table
	}
	return all, err
}

func nftAttributes(b []byte) (map[uint16][]byte, error) {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	one := map[uint16][]byte{}
	for _, x := range list {
		one[x.Attr.Type&nl.NLA_TYPE_MASK] = x.Value
	}
	return one, nil
}

// text is a string attribute without the zero that ends it.
func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

// Drift says how the table that stands in the calling thread's namespace differs from this
// one, in a few words for people, or "" when it does not.
func (t *Table) Drift() (string, error) {
	words, err := t.drift()
	if err != nil {
		return "", fmt.Errorf("read nftables table %s: %w", t.Name, err)
	}
	return words, nil
}

func (t *Table) drift() (string, error) {
	chains, err := nftDump(unix.NFT_MSG_GETCHAIN, t.Name)
	if err != nil {
		return "", err
	}
	if len(chains) == 0 {
		return "it is missing", nil
	}
	if words, err := t.chainDrift(chains); words != "" || err != nil {
		return words, err
	}
	if words, err := t.ruleDrift(); words != "" || err != nil {
		return words, err
	}
	if words, err := t.objectDrift(); words != "" || err != nil {
		return words, err
	}
	return t.setDrift()
}

func (t *Table) chainDrift(have []map[uint16][]byte) (string, error) {
	byName := map[string]map[uint16][]byte{}
	for _, c := range have {
		byName[text(c[unix.NFTA_CHAIN_NAME])] = c
	}
	for _, c := range t.Chains {
		k, ok := byName[c.Name]
		if !ok {
			return "chain " + c.Name + " is missing", nil
		}
		delete(byName, c.Name)
		hook, err := nftAttributes(k[unix.NFTA_CHAIN_HOOK])
		if err != nil {
			return "", err
		}
		switch {
		case (c.Hook != nil) != (len(hook) > 0):
		case c.Hook == nil:
			continue
		case number32(hook[unix.NFTA_HOOK_HOOKNUM]) == uint32(*c.Hook) &&
			number32(hook[unix.NFTA_HOOK_PRIORITY]) == uint32(c.Priority) &&
			number32(k[unix.NFTA_CHAIN_POLICY]) == uint32(nftables.ChainPolicyAccept) &&
			(text(k[unix.NFTA_CHAIN_TYPE]) == "nat") == c.NAT:
			continue
		}
		return "chain " + c.Name + " is at another hook or has another policy", nil
	}
	for name := range byName {
		return "chain " + name + " is not ours", nil
	}
	return "", nil
}

func number32(b []byte) uint32 {
	if len(b) != 4 {
		return ^uint32(0)
	}
	return binary.BigEndian.Uint32(b)
}

func (t *Table) ruleDrift() (string, error) {
	have, err := nftDump(unix.NFT_MSG_GETRULE, t.Name)
	if err != nil {
		return "", err
	}
	byChain := map[string][][]byte{}
	for _, r := range have {
		name := text(r[unix.NFTA_RULE_CHAIN])
		byChain[name] = append(byChain[name], r[unix.NFTA_RULE_USERDATA])
	}
	want, err := t.marks()
	if err != nil {
		return "", err
	}
	for i, c := range t.Chains {
		marks := byChain[c.Name]
		if len(marks) != len(c.Rules) {
			return fmt.Sprintf("chain %s has %d rules instead of %d", c.Name, len(marks), len(c.Rules)), nil
		}
		for j, r := range c.Rules {
			if !bytes.Equal(userdata.Get(marks[j], dataMark), userdata.Get(want[i][j], dataMark)) {
				return fmt.Sprintf("chain %s has another rule in place of %q", c.Name, r.Words), nil
			}
		}
	}
	return "", nil
}

func (t *Table) objectDrift() (string, error) {
	have, err := nftDump(unix.NFT_MSG_GETOBJ, t.Name)
	if err != nil {
		return "", err
	}
	missing := slices.Clone(t.Counters)
	for _, timer := range t.Timers {
		missing = append(missing, timer.Name)
	}
	for _, o := range have {
		name := text(o[unix.NFTA_OBJ_NAME])
		missing = slices.DeleteFunc(missing, func(s string) bool { return s == name })
	}
	if len(missing) > 0 {
		return "object " + missing[0] + " is missing", nil
	}
	return "", nil
}

func (t *Table) setDrift() (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", err
	}
	k := &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
	for _, s := range t.Sets {
		have, err := c.GetSetElements(s.kernel(k))
		if errors.Is(err, unix.ENOENT) {
			return "set " + s.Name + " is missing", nil
		}
		if err != nil {
			return "", fmt.Errorf("set %s: %w", s.Name, err)
		}
		slices.SortFunc(have, compareElements)
		if !slices.EqualFunc(s.elements(), have, func(a, b nftables.SetElement) bool { return compareElements(a, b) == 0 }) {
			return "set " + s.Name + " has other elements", nil
		}
	}
	return "", nil
}

// Count is the value of a named counter.
type Count struct{ Packets, Bytes uint64 }

// Counts reads the named counters of the inet table of that name; none without the table.
func Counts(table string) (map[string]Count, error) {
	objects, err := nftDump(unix.NFT_MSG_GETOBJ, table)
	if err != nil {
		return nil, fmt.Errorf("read counters of nftables table %s: %w", table, err)
	}
	all := map[string]Count{}
	for _, o := range objects {
		if number32(o[unix.NFTA_OBJ_TYPE]) != unix.NFT_OBJECT_COUNTER {
			continue
		}
		values, err := nftAttributes(o[unix.NFTA_OBJ_DATA])
		if err != nil {
			return nil, fmt.Errorf("read counters of nftables table %s: %w", table, err)
		}
		packets, octets := values[unix.NFTA_COUNTER_PACKETS], values[unix.NFTA_COUNTER_BYTES]
		if len(packets) == 8 && len(octets) == 8 {
			all[text(o[unix.NFTA_OBJ_NAME])] = Count{binary.BigEndian.Uint64(packets), binary.BigEndian.Uint64(octets)}
		}
	}
	return all, nil
}
