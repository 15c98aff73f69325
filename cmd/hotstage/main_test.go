package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hotstage": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		for _, name := range []string{"smallest", "yapc2013", "janog53"} {
			src, err := os.ReadFile("../../examples/" + name + ".yaml")
			if err != nil {
				return err
			}
			if err := os.WriteFile(e.WorkDir+"/"+name+".yaml", src, 0o644); err != nil {
				return err
			}
		}
		return nil
	}})
}
