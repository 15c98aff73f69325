package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/plan"
)

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) plan.Secret {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return plan.Secret{File: path}
	}
	t.Setenv("HOTSTAGE_TEST_SECRET", "p w")
	for _, c := range []struct {
		ref        plan.Secret
		want, hint string
	}{
		{plan.Secret{Env: "HOTSTAGE_TEST_SECRET"}, "p w", ""},
		{plan.Secret{Env: "HOTSTAGE_TEST_NOWHERE"}, "", "HOTSTAGE_TEST_NOWHERE is not set"},
		{file("one", "p w\nand more"), "p w", ""},
		{file("dos", "p w\r\n"), "p w", ""},
		{file("bare", "p w"), "p w", ""},
		{file("empty", "\nlater\n"), "", "the first line of " + filepath.Join(dir, "empty") + " is empty"},
		{plan.Secret{File: filepath.Join(dir, "none")}, "", "make the file with the secret"},
		{file("long", strings.Repeat("x", 1<<20)), strings.Repeat("x", mostSecret), ""},
	} {
		got, err := secret(c.ref)
		if got != c.want || (err != nil) != (c.hint != "") || err != nil && !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%+v: %q, %v; want %q, %q", c.ref, got, err, c.want, c.hint)
		}
	}
}
