package internal

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// TestImports enforces the one rule of the house. Count the words after internal/:
// one word is ground, two are a room, three are a cupboard of that room. Nobody imports
// another's room, only a room (and cmd) opens its cupboards, and nobody imports cmd.
func TestImports(t *testing.T) {
	const root = "github.com/hotstage/hotstage/"
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", root+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		from, ours := strings.CutPrefix(p.ImportPath, root)
		if !ours || strings.HasPrefix(from, "cmd/") {
			continue
		}
		imports := append(append(p.Imports, p.TestImports...), p.XTestImports...)
		for _, imp := range imports {
			if to, ours := strings.CutPrefix(imp, root); ours {
				if why := forbidden(from, to); why != "" {
					t.Errorf("%s imports %s: %s", from, to, why)
				}
			}
		}
	}
}

// forbidden says why package from must not import package to, or "" when it may. Both are
// paths below the module.
func forbidden(from, to string) string {
	if strings.HasPrefix(to, "cmd/") {
		return "cmd joins the others; nobody imports it"
	}
	room := func(path string) string {
		words := strings.Split(strings.TrimPrefix(path, "internal/"), "/")
		return strings.Join(words[:min(2, len(words))], "/")
	}
	switch words := strings.Count(to, "/"); {
	case words == 1: // internal/x
		return ""
	case room(from) != room(to):
		return "a room is opened by cmd only; declare the interface you need where you need it and let cmd join the two"
	case words == 2 && strings.Count(from, "/") == 3:
		return "a cupboard does not import its room"
	}
	return ""
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"internal/role/dhcp", "internal/plan", false},
		{"internal/role/dhcp", "internal/role/ra", true},
		{"internal/role/dhcp", "internal/store/sqlite", true},
		{"internal/role/resolver", "internal/role/resolver/recursor", false},
		{"internal/role/resolver/recursor", "internal/role/resolver", true},
		{"internal/kernel", "internal/role/dhcp", true},
		{"internal/plan", "internal/fact", false},
		{"internal/plan", "cmd/hotstage", true},
	} {
		if why := forbidden(c.from, c.to); (why != "") != c.bad {
			t.Errorf("forbidden(%s, %s) = %q", c.from, c.to, why)
		}
	}
}
