package plan

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// Encrypted is what the plan says of name service by TLS, HTTPS and QUIC.
type Encrypted struct {
	Mode string // EncryptedOn, EncryptedOff, or "": when there is a certificate
	Name string // that devices know it by, and that its certificate is for; without a trailing dot
	// Chain and Key are files on the nodes. Both are empty when the plan gives no certificate:
	// then the event's authority has signed one, if there is any.
	Chain, Key string `json:",omitempty"`
}

// The words of resolver.encrypted.
const (
	EncryptedOn  = "on"
	EncryptedOff = "off"
)

// DoHPath is the URI template by which our resolvers are asked over HTTPS.
const DoHPath = "/dns-query{?dns}" // what RFC 8484 section 4.1.1 shows and nearly all servers have

type rawEncrypted struct {
	at         *value // the certificate's
	modeAt     *value
	mode, name string
	chain, key string
	chainAt    *value
	keyAt      *value
}

func (r *reader) certificate(v *value, e *rawEncrypted) {
	e.at = v
	r.fields(v, map[string]func(*value){
		"name":  r.str(&e.name),
		"chain": func(v *value) { e.chainAt = v; r.pemFile(v, &e.chain, "/etc/hotstage/dns.crt") },
		"key":   func(v *value) { e.keyAt = v; r.pemFile(v, &e.key, "/etc/hotstage/dns.key") },
	})
}

// pemFile reads where a file is: a path, or the name of a secret that is in a file. What
// stands there instead is not told, as it may be the key itself.
func (r *reader) pemFile(v *value, dst *string, example string) {
	allowed := "the path of a file on the nodes, such as file:" + example + ", or the name of a secret that is a file"
	if !r.want(v, scalar, allowed) {
		return
	}
	path := strings.TrimPrefix(v.text, "file:")
	switch {
	case strings.HasPrefix(path, "/") && filepath.Clean(path) == path && path != "/":
		*dst = path
	case isLabel(v.text):
		*dst = v.text // of a secret; the deriver looks it up
	default:
		r.tell(Fault{Line: v.line, Column: v.col, Path: v.path, Words: "a certificate and its key are given by where they are", Allowed: allowed,
			Hint: "take a key out of the plan, and out of its history if it was committed"})
	}
}

// encryptedService says how our resolvers serve by TLS, HTTPS and QUIC.
func (d *deriver) encryptedService() Encrypted {
	raw := &d.raw.resolver.encrypted
	e := Encrypted{Mode: raw.mode, Name: strings.TrimSuffix(strings.ToLower(raw.name), ".")}
	if e.Name == "" {
		e.Name = "dns." + d.plan.Event.Domain
	}
	if raw.at == nil {
		if e.Mode == EncryptedOn {
			d.warn(raw.modeAt, "resolver: encrypted without a certificate: the event's own authority signs one, which devices do not know; they use it unverified (RFC 9462 section 4.3), or not at all",
				"certificate: {name: …, chain: …, key: …} of an authority that devices know; hotstage keys PLAN makes the event's own")
		}
		return e
	}
	if !isDomain(e.Name) || !strings.Contains(e.Name, ".") {
		d.at(raw.at.field("name"), "resolver: certificate: not a name of a resolver", "the domain name that the certificate is for, such as dns.conf.example", "")
	}
	e.Chain, e.Key = d.pemPath(raw.chain, raw.chainAt), d.pemPath(raw.key, raw.keyAt)
	for _, c := range []struct {
		key string
		at  *value
	}{{"chain", raw.chainAt}, {"key", raw.keyAt}} {
		if c.at == nil {
			d.at(raw.at, "resolver: certificate: there is no "+c.key, "chain: the certificate and those above it, and key: its private key; each the path of a file on the nodes", "")
		}
	}
	if e.Mode == EncryptedOff {
		d.warn(raw.at, "resolver: a certificate and encrypted: off: it is not used", "no certificate, or no encrypted: off")
	}
	return e
}

// pemPath is the file that a path or a secret's name stands for.
func (d *deriver) pemPath(given string, at *value) string {
	if given == "" || strings.HasPrefix(given, "/") {
		return given
	}
	var files []string
	for name, s := range d.raw.secrets {
		if s.File != "" {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	if s := d.raw.secrets[given]; s.File != "" {
		return s.File
	}
	d.tell(Fault{Line: at.line, Column: at.col, Path: at.path, Words: "resolver: certificate: not the path of a file, and not the name of a secret that is one",
		Allowed: choices(files), Hint: "file:/etc/hotstage/dns.key, or secrets: {dns-key: file:/etc/hotstage/dns.key} and key: dns-key"})
	return ""
}

// tellEncrypted has DHCP tell the segment's devices of our resolvers by TLS, QUIC and HTTPS
// (RFC 9463), where the plan gives these a certificate and says nothing else of the segment:
// the event's own authority would have devices ask a resolver that they cannot verify.
func (d *deriver) tellEncrypted(s *draft, e Encrypted) {
	if e.Chain == "" || e.Key == "" || e.Mode == EncryptedOff || s.raw.gives("encrypted_dns") || s.raw.gives("dns") || len(s.DNS4) == 0 {
		return
	}
	s.EncryptedDNS = []EncryptedDNS{{Name: e.Name, Addresses: append([]netip.Addr(nil), s.DNS4...), ALPN: []string{"dot", "doq", "h2"}, Path: DoHPath}}
}
