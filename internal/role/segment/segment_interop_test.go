//go:build linux

package segment

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/testnet"
)

// What a person sees who asks nft on each node of the examples. Rules name links, so none
// must be there.
func TestRulesetAsNFTShowsIt(t *testing.T) {
	nft := testnet.Tools(t, "nft")[0]
	plans := map[string][]byte{"small": []byte(smallVenue)}
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		plans[strings.TrimSuffix(filepath.Base(file), ".yaml")] = src
	}
	for name, src := range plans {
		p := load(t, src)
		for _, n := range p.Nodes {
			t.Run(name+"/"+n.Name, func(t *testing.T) {
				c, err := Configure(p, n.Name)
				if err != nil {
					t.Fatal(err)
				}
				ns, table := testnet.Namespace(t), c.table()
				testnet.Do(t, ns, table.Write)
				out, err := testnet.Output(ns, nft, "list", "ruleset")
				if err != nil {
					t.Fatalf("nft: %v\n%s", err, out)
				}
				golden.Compare(t, name+"_"+n.Name+".nft", []byte(out))
				testnet.Do(t, ns, func() error {
					drift, err := table.Drift()
					if drift != "" {
						t.Errorf("as written, but it reads: %s", drift)
					}
					return err
				})
			})
		}
	}
}
