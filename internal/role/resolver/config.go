package resolver

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/role/resolver/unbound"
	"github.com/hotstage/hotstage/internal/wire"
)

// minCache keeps every shard able to hold the largest answers of UDP.
const minCache = 1 << 20

// Configure reads from the plan what the node's resolver serves: on its addresses in its
// segments, never on an uplink, for clients of any segment of the plan.
func Configure(p *plan.Plan, node string) (Config, error) {
	n := p.Node(node)
	if n == nil {
		return Config{}, fmt.Errorf("resolver: the plan has no node %q; hotstage show PLAN lists its nodes", node)
	}
	cfg := Config{Name: n.FQDN, Domain: p.Event.Domain, Ask: p.Resolver.Ask, Health: p.Resolver.Health, Names: p.Resolver.Names, Cache: p.Resolver.Cache, Rate: p.Resolver.ClientRate, Block: p.Resolver.Block, Log: p.Resolver.Log, XDP: p.Resolver.XDP}
	if p.Resolver.Unbound {
		u := unbound.Configure(p, node)
		cfg.Unbound = &u
	}
	if len(cfg.Ask) == 0 && cfg.Unbound == nil {
		return Config{}, fmt.Errorf("resolver: the plan gives no resolver to ask; say resolver: {recursion: unbound}, or [ADDRESS, …]")
	}
	if cfg.Cache < minCache {
		return Config{}, fmt.Errorf("resolver: a cache of %d bytes is too small; give it %d at least", cfg.Cache, minCache)
	}
	cfg.Encrypted = encrypted(p)
	names := []string{cfg.Name, cfg.Domain}
	if cfg.Encrypted != nil {
		names = append(names, cfg.Encrypted.Name)
	}
	for _, x := range cfg.Names {
		names = append(names, x.FQDN)
	}
	for _, name := range names {
		if _, err := wire.PackDNSName(nil, name); err != nil || name == "" {
			return Config{}, fmt.Errorf("resolver: %q is not a DNS name: labels of 1 to 63 octets, 255 in all", name)
		}
	}
	for _, s := range p.Segments {
		for _, prefix := range []netip.Prefix{s.IPv4, s.IPv6} {
			if prefix.IsValid() {
				cfg.Clients = append(cfg.Clients, prefix.Masked())
			}
		}
	}
	add := func(a netip.Addr) {
		if a.IsValid() && !slices.Contains(cfg.Listen, a) {
			cfg.Listen = append(cfg.Listen, a)
		}
	}
	for _, a := range n.Attachments {
		if !slices.Contains(cfg.Devices, a.Device) {
			cfg.Devices = append(cfg.Devices, a.Device)
		}
		add(a.IPv4.Addr())
		add(a.IPv6.Addr())
		if seg := p.Segment(a.Segment); seg != nil && a.Gateway {
			add(seg.Gateway4)
			add(seg.Gateway6)
		}
		if seg := p.Segment(a.Segment); seg != nil && seg.Service != nil && n.Has(plan.RoleResolver) {
			add(seg.Service.IPv4)
			add(seg.Service.IPv6)
		}
	}
	if cfg.Encrypted != nil {
		cfg.Encrypted.Hints = hints(p, cfg.Listen)
	}
	return cfg, nil
}
