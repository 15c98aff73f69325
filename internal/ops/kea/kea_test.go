package kea

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/plan"
)

func imported(t *testing.T, name string, a Answers) *Imported {
	t.Helper()
	src, err := os.ReadFile("testdata/" + name + ".conf")
	if err != nil {
		t.Fatal(err)
	}
	in, err := Import(name+".conf", src, nil, a)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestKeaGolden(t *testing.T) {
	for name, a := range map[string]Answers{"janog": {Name: "JANOG-like Meeting", People: 3000}, "campus": {}, "every": {}} {
		t.Run(name, func(t *testing.T) {
			in := imported(t, name, a)
			golden.Compare(t, name+".yaml", in.Plan)
			p, _, faults := plan.Parse(in.Plan, nil)
			if p == nil {
				t.Fatal(faults)
			}
			if len(p.Segments) != in.Segments {
				t.Errorf("%d segments, said %d", len(p.Segments), in.Segments)
			}
			var all strings.Builder
			for _, n := range in.Notes {
				fmt.Fprintf(&all, "%s: %s\n", n.At, n)
			}
			golden.Compare(t, name+".notes.txt", []byte(all.String()))
			for _, secret := range []string{"secret", "3306"} {
				if strings.Contains(all.String()+string(in.Plan), secret) {
					t.Errorf("%q of the database's access is shown", secret)
				}
			}
		})
	}
}

// Every setting of every golden configuration is taken or covered by a note, and each key
// that Kea documents has words of its own.
func TestKeaEverySettingIsCarriedOrTold(t *testing.T) {
	for _, name := range []string{"janog", "campus", "every"} {
		src, err := os.ReadFile("testdata/" + name + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		c, err := open(name, src, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.convert()
		silent := 0
		var walk func(*value)
		walk = func(v *value) {
			if !v.taken && v.path != "$" {
				silent++
			}
			for _, m := range v.members {
				walk(m.val)
			}
			for _, i := range v.items {
				walk(i)
			}
		}
		walk(c.root)
		notes := c.allNotes()
		if silent == 0 {
			t.Errorf("%s: everything was carried, which cannot be", name)
		}
		silent = 0
		if walk(c.root); silent > 0 {
			t.Errorf("%s: %d settings are neither carried nor told", name, silent)
		}
		for _, n := range notes {
			if strings.Contains(n.Words, "does not know this setting") {
				t.Errorf("%s: %s has no words of its own", name, n.Path)
			}
		}
	}
}

// A setting that nobody has heard of is told too, wherever it stands.
func TestKeaUnknownSettings(t *testing.T) {
	base := `{"Dhcp4": {%s "subnet4": [{%s "subnet": "10.0.0.0/24", "pools": [{%s "pool": "10.0.0.10-10.0.0.99"}], "option-data": [{%s "name": "routers", "data": "10.0.0.1"}], "reservations": [{%s "hw-address": "02:00:00:00:00:01", "ip-address": "10.0.0.5"}]}]}}`
	for i := range 5 {
		args := []any{"", "", "", "", ""}
		args[i] = `"new-in-kea-9": {"a": [1]},`
		in, err := Import("k", fmt.Appendf(nil, base, args...), nil, Answers{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(in.Notes, func(n Note) bool {
			return strings.HasSuffix(n.Path, ".new-in-kea-9") && n.Kind == NotCarried
		}) {
			t.Errorf("level %d: not told: %v", i, in.Notes)
		}
	}
}

// one converts a configuration and returns its only segment and the notes as text.
func one(t *testing.T, text string) (*plan.Segment, string) {
	t.Helper()
	in, err := Import("k", []byte(text), nil, Answers{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	p, _, faults := plan.Parse(in.Plan, nil)
	if p == nil || len(p.Segments) != 1 {
		t.Fatalf("%v\n%s", faults, in.Plan)
	}
	var all []string
	for _, n := range in.Notes {
		all = append(all, n.String())
	}
	return &p.Segments[0], strings.Join(all, "\n")
}

// The nearest level wins, as in Kea.
func TestKeaInheritance(t *testing.T) {
	levels := []string{`"valid-lifetime": %d, "option-data": [{"name": "domain-name", "data": "%s.example"}, {"code": 6, "data": "192.0.2.%d"}],`, "", "", ""}
	for nearest := range 4 {
		for i := range levels {
			levels[i] = ""
		}
		for i := 0; i <= nearest; i++ {
			domain := string(rune('a' + i))
			levels[i] = fmt.Sprintf(`"option-data": [{"name": "domain-name", "data": "%s.example"}, {"code": 6, "data": "192.0.2.%d"}],`, domain, i+1)
			if i < 3 { // a pool has no lifetime
				levels[i] += fmt.Sprintf(`"valid-lifetime": %d,`, 600*(i+1))
			}
		}
		s, notes := one(t, fmt.Sprintf(`{"Dhcp4": {%s "shared-networks": [{%s "name": "n", "subnet4": [{%s "subnet": "10.0.0.0/24", "pools": [{%s "pool": "10.0.0.64/26"}]}]}]}}`, levels[0], levels[1], levels[2], levels[3]))
		want := fmt.Sprintf("%c.example 192.0.2.%d %d", 'a'+nearest, nearest+1, 600*(min(nearest, 2)+1))
		if got := fmt.Sprintf("%s %v %.0f", s.Domain, s.DNS4[0], s.Lease.Seconds()); got != want {
			t.Errorf("level %d: %s, want %s; %s", nearest, got, want, notes)
		}
	}
}

func TestKeaPoolsAndGateways(t *testing.T) {
	for _, c := range []struct{ name, subnet, pool, gateway, told string }{
		{"two pools side by side are one", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.50-10.0.0.99"}, {"pool": "10.0.0.10 - 10.0.0.49"}]`, "10.0.0.10-10.0.0.99", "10.0.0.1", "no routers option"},
		{"a prefix without network and broadcast", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.128/25"}]`, "10.0.0.128-10.0.0.254", "10.0.0.1", ""},
		{"the gateway cuts the pool", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.0/24"}], "option-data": [{"name": "routers", "data": "10.0.0.20"}]`, "10.0.0.21-10.0.0.254", "10.0.0.20", "lies in the pool"},
		{"a gateway elsewhere", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.9-10.0.0.99"}], "option-data": [{"name": "routers", "data": "10.9.0.1"}]`, "10.0.0.9-10.0.0.99", "10.0.0.1", "10.9.0.1 is not a host"},
		{"the first host is in the pool", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.1-10.0.0.99"}]`, "10.0.0.1-10.0.0.99", "10.0.0.254", "get the gateway 10.0.0.254"},
		{"both ends are in use", `"subnet": "10.0.0.0/29", "pools": [{"pool": "10.0.0.1-10.0.0.3"}], "reservations": [{"hw-address": "02:00:00:00:00:01", "ip-address": "10.0.0.6"}]`, "10.0.0.1-10.0.0.3", "10.0.0.4", ""},
		{"a pool of another network", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.1.0.1-10.1.0.9"}]`, "10.0.0.254-10.0.0.254", "10.0.0.1", "give addresses of 10.0.0.0/24"},
		{"more than a plan's pool", `"subnet": "10.0.0.0/8", "pools": [{"pool": "10.1.0.0-10.200.255.255"}]`, "10.1.0.0-10.4.255.255", "10.0.0.1", "up to 262144"},
		{"host bits", `"subnet": "10.0.0.7/24", "pools": [{"pool": "10.0.0.9-10.0.0.99"}]`, "10.0.0.9-10.0.0.99", "10.0.0.1", "host bits are cut off"},
		{"only the gateway in the pool", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.9-10.0.0.9"}], "option-data": [{"name": "routers", "data": "10.0.0.9"}]`, "10.0.0.254-10.0.0.254", "10.0.0.9", "at least one address"},
		{"a reservation of the gateway", `"subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.9-10.0.0.99"}], "option-data": [{"name": "routers", "data": "10.0.0.1"}], "reservations": [{"hw-address": "02:00:00:00:00:01", "ip-address": "10.0.0.1"}]`, "10.0.0.9-10.0.0.99", "10.0.0.1", "10.0.0.1 is the gateway"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, notes := one(t, `{"Dhcp4": {"subnet4": [{`+c.subnet+`}]}}`)
			got := fmt.Sprintf("%s-%s", s.Pool.From, s.Pool.To)
			if got != c.pool || s.Gateway4.String() != c.gateway || !strings.Contains(notes, c.told) {
				t.Errorf("pool %s, gateway %s; want %s, %s and %q in\n%s", got, s.Gateway4, c.pool, c.gateway, c.told, notes)
			}
		})
	}
}

// Whatever the team calls a subnet becomes a name that a plan takes.
func TestKeaNames(t *testing.T) {
	for said, want := range map[string]string{
		`"comment": "Hall A"`: "hall-a", `"comment": "251"`: "251", `"comment": "true"`: "true", `"comment": "0x1f"`: "0x1f", `"comment": "NULL"`: "null",
		`"comment": "1e3"`: "1e3", `"comment": "会場"`: "subnet-7", `"comment": "a: b # c\n- {d"`: "subnet-7", `"user-context": {"name": "Server", "comment": "x"}`: "server",
		`"comment": "gw1"`: "gw1", `"comment": "` + strings.Repeat("a", 41) + `"`: "subnet-7", `"comment": ["x"]`: "subnet-7", `"comment": "management"`: "management",
	} {
		s, _ := one(t, `{"Dhcp4": {"subnet4": [{"id": 7, "subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.9-10.0.0.99"}],`+said+`}]}}`)
		if s.Name != want {
			t.Errorf("%s is %s, want %s", said, s.Name, want)
		}
	}
}

// More people than the pools are good for: the plan still checks, and a note says what to do.
func TestKeaPeople(t *testing.T) {
	text := []byte(`{"Dhcp4": {"subnet4": [{"id": 7, "subnet": "10.0.0.0/24", "pools": [{"pool": "10.0.0.10-10.0.0.209"}]}]}}`)
	for _, c := range []struct {
		people, devices int
		short           bool
	}{{0, 153, false}, {50, 100, false}, {90, 180, true}, {5000, 200, true}, {5161, 200, true}, {100_000, 200, true}} {
		in, err := Import("k", text, nil, Answers{People: c.people})
		if err != nil {
			t.Fatal(err)
		}
		p, _, faults := plan.Parse(in.Plan, nil)
		if p == nil {
			t.Fatal(faults)
		}
		short := slices.ContainsFunc(in.Notes, func(n Note) bool { return strings.Contains(n.Words, "a shorter lease") })
		if p.Segments[0].Devices != c.devices || short != c.short {
			t.Errorf("%d people: %d devices, hint %v; want %d, %v", c.people, p.Segments[0].Devices, short, c.devices, c.short)
		}
	}
}

func TestKeaFaults(t *testing.T) {
	for text, want := range map[string]string{
		``:                                     `k:1:1: a value should stand here, not the end of the file`,
		"{\n  \"Dhcp4\": {\n":                  `k:3:1: "}" is missing: the file ends here`,
		"{\n \"a\" 1}":                         `k:2:6: a colon should stand after "a", not "1}"`,
		"{\"a\": [1 2]}":                       `k:1:10: a comma or "]" should stand here, not "2]}"`,
		"{\"a\": 1,\n\"a\": 2}":                `k:2:1: "a" stands twice in this object, in line 1 too`,
		"{/* x":                                `k:1:2: this comment has no end`,
		"{\"a\": \"x\n\"}":                     `k:1:7: this string has no closing quote`,
		`{"a": "\q"}`:                          `k:1:7: this string is not UTF-8 or has an escape`,
		`{} x`:                                 `k:1:4: something stands after the end`,
		`{"a": tru}`:                           `k:1:7: a value should stand here, not "tru}"`,
		`{"Dhcp6": {}}`:                        `k:1:1: this is the configuration of Kea's DHCPv6 server`,
		`{"Control-agent": {}}`:                `k:1:1: there is no Dhcp4 in it`,
		`{"Dhcp4": []}`:                        `k:1:2: Dhcp4 is not an object`,
		`[]`:                                   `k:1:1: a Kea configuration is an object`,
		`{"Dhcp4": {"subnet4": []}}`:           `k:1:2: there is no subnet that a plan could have`,
		"{\"Dhcp4\":\n<?include \"x.json\"?>}": `k:2:1: include "x.json": files can't be included here`,
		"{\"Dhcp4\": <?import x?>}":            `k:1:11: not an include; allowed: <?include "file"?>`,
		strings.Repeat("[", 100):               `values stand in each other more than 64 deep`,
	} {
		_, err := Import("k", []byte(text), nil, Answers{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestKeaIncludes(t *testing.T) {
	files := map[string]string{
		"subnets.json": "[ // of the hall\n{\"subnet\": \"10.0.0.0/24\", \"frob\": 1, <?include \"pools.json\"?> }\n]",
		"pools.json":   "\"pools\": [{\"pool\": \"10.0.0.9-10.0.0.99\"},]",
		"loop.json":    "<?include \"loop.json\"?>",
		"bad.json":     "\n\n[}",
	}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, errors.New("no such file")
	}
	conf := func(file string) []byte { return []byte("{\"Dhcp4\": {\n\"subnet4\": <?include \"" + file + "\"?>}}") }
	in, err := Import("k", conf("subnets.json"), read, Answers{})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(in.Notes, func(n Note) bool { return strings.HasSuffix(n.Path, ".frob") }); i < 0 || in.Notes[i].At.String() != "subnets.json:2:27" {
		t.Errorf("notes: %v", in.Notes)
	}
	for file, want := range map[string]string{"loop.json": "more than 10 deep", "bad.json": "bad.json:3:2: ", "none": `k:2:12: include "none": no such file`} {
		if _, err := Import("k", conf(file), read, Answers{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", file, err, want)
		}
	}
}

func TestKeaSubnets(t *testing.T) {
	src, err := os.ReadFile("testdata/campus.conf")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Subnets("k", src, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix
	want := []Subnet{{p("10.20.0.0/22"), 0}, {p("10.20.4.0/22"), 0}, {p("10.30.0.0/24"), 30}, {p("10.40.0.0/24"), 40}, {p("10.50.0.0/30"), 50}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// The document shows a note as the program prints it, and names what is carried.
func TestKeaDocument(t *testing.T) {
	text, err := os.ReadFile("../../../doc/kea.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, n := range imported(t, "janog", Answers{}).Notes {
		if strings.Contains(string(text), "\n"+strings.Replace(n.At.String(), "janog.conf", "kea-dhcp4.conf", 1)+": "+n.String()+"\n") {
			shown++
		}
	}
	if shown != 1 {
		t.Errorf("%d of its notes are such as the program prints, want 1", shown)
	}
	for name := range codeOf {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("the option %s is not in the document", name)
		}
	}
}

func FuzzKeaConfig(f *testing.F) {
	for _, name := range []string{"janog", "campus", "every"} {
		src, err := os.ReadFile("testdata/" + name + ".conf")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, 0)
	}
	f.Add([]byte(`{"Dhcp4":{"subnet4":[{"subnet":"10.0.0.0/29","interface":"eth0.5","reservations":[{"hw-address":"02:00:00:00:00:01","ip-address":"10.0.0.1","hostname":"gw1"}]},{"subnet":"10.0.0.8/29","interface":"eth0","comment":"a\nb: {","option-data":[{"code":6,"data":"10.0.0.1,10.0.0.9"}]}]}}`), 9)
	f.Fuzz(func(t *testing.T, src []byte, people int) {
		if people < 0 || people > mostPeople {
			return
		}
		in, err := Import("k", src, nil, Answers{People: people})
		if err == nil {
			if p, _, faults := plan.Parse(in.Plan, nil); p == nil {
				t.Fatalf("the plan has faults: %v\n%s", faults, in.Plan)
			}
		} else if strings.Contains(err.Error(), "the plan that would come") {
			t.Fatalf("%v\n%s", err, src)
		}
	})
}
