package plan

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestEncrypted(t *testing.T) {
	own := Encrypted{Name: "dns.t.home.arpa"}
	given := Encrypted{Name: "dns.conf.example", Chain: "/etc/hotstage/dns.crt", Key: "/run/keys/dns.key"}
	const certificate = "certificate: {name: DNS.conf.example., chain: file:/etc/hotstage/dns.crt, key: %s}"
	const secrets = "secrets: {dns-key: 'file:/run/keys/dns.key', token: 'env:TOKEN'}\n"
	with := func(key string) string { return strings.Replace(certificate, "%s", key, 1) }
	mode := func(e Encrypted, m string) Encrypted { e.Mode = m; return e }
	for _, c := range []struct {
		name, resolver string
		want           Encrypted
		words          string // of the only fault
	}{
		{"nothing said", "", own, ""},
		{"off", "encrypted: off", mode(own, EncryptedOff), ""},
		{"on without a certificate", "encrypted: on", mode(own, EncryptedOn), "which devices do not know"},
		{"neither", "encrypted: maybe", own, "not one of the known words"},
		{"a certificate", with("/run/keys/dns.key"), given, ""},
		{"a secret", with("dns-key"), given, ""},
		{"and on", with("dns-key") + ", encrypted: on", mode(given, EncryptedOn), ""},
		{"and off", with("dns-key") + ", encrypted: off", mode(given, EncryptedOff), "it is not used"},
		{"a secret that is no file", with("token"), Encrypted{}, "not the name of a secret that is one"},
		{"no such secret", with("other"), Encrypted{}, "not the name of a secret that is one"},
		{"the key itself", with("'-----BEGIN PRIVATE KEY-----'"), Encrypted{}, "by where they are"},
		{"a relative path", with("./dns.key"), Encrypted{}, "by where they are"},
		{"a path that goes up", with("/etc/../dns.key"), Encrypted{}, "by where they are"},
		{"no key", "certificate: {chain: /etc/hotstage/dns.crt}", Encrypted{}, "there is no key"},
		{"no chain", "certificate: {key: dns-key}", Encrypted{}, "there is no chain"},
		{"no name", "certificate: {name: 'a b', chain: /a, key: /b}", Encrypted{}, "not a name of a resolver"},
		{"a name without a dot", "certificate: {name: dns, chain: /a, key: /b}", Encrypted{}, "not a name of a resolver"},
	} {
		p, _, faults := Parse([]byte("event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {}}}}\n"+secrets+"resolver: {"+c.resolver+"}\n"), nil)
		var words []string
		for _, f := range faults {
			words = append(words, f.Words)
			if strings.Contains(f.Given+f.Words+f.Hint, "BEGIN") {
				t.Errorf("%s: the fault tells the key: %v", c.name, f)
			}
		}
		switch {
		case c.words == "" && len(faults) > 0, c.words != "" && (len(faults) != 1 || !strings.Contains(words[0], c.words)):
			t.Errorf("%s: faults %q, want one with %q", c.name, words, c.words)
		case p != nil:
			if diff := cmp.Diff(c.want, p.Resolver.Encrypted); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.name, diff)
			}
		case c.want != (Encrypted{}) && !faults.Errors():
			t.Errorf("%s: no plan", c.name)
		}
	}
}

// Devices are told of our encrypted resolvers where the plan gives those a certificate, and
// says nothing else.
func TestEncryptedIsTold(t *testing.T) {
	const certificate = "certificate: {chain: /etc/dns.crt, key: /etc/dns.key}"
	ours := EncryptedDNS{Name: "dns.t.home.arpa", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, ALPN: []string{"dot", "doq", "h2"}, Path: "/dns-query{?dns}"}
	theirs := EncryptedDNS{Name: "dns.quad9.net", Addresses: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, ALPN: []string{"dot"}}
	for _, c := range []struct {
		name, resolver, attendee string
		want                     []EncryptedDNS
	}{
		{"a certificate", certificate, "", []EncryptedDNS{ours}},
		{"the event's own", "encrypted: on", "", nil},
		{"nothing", "", "", nil},
		{"off", certificate + ", encrypted: off", "", nil},
		{"other resolvers", certificate, ", dns: [9.9.9.9]", nil},
		{"another one", certificate, ", encrypted_dns: {name: dns.quad9.net, addresses: 9.9.9.9}", []EncryptedDNS{theirs}},
		{"none", certificate, ", encrypted_dns: []", nil},
	} {
		p, _, faults := Parse([]byte("event: {name: T, attendees: 100}\nsites: {venue: {uplinks: {isp: {}}}}\nresolver: {"+c.resolver+"}\nsegments: {attendee: {ipv4: 10.1.0.0/22"+c.attendee+"}, server: {}, management: {}}\n"), nil)
		if p == nil {
			t.Errorf("%s: %v", c.name, faults)
			continue
		}
		if diff := cmp.Diff(c.want, p.Segment("attendee").EncryptedDNS, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
