//go:build linux

package ra

import (
	"strings"
	"testing"

	"github.com/hotstage/hotstage/internal/testnet"
)

func TestRdisc6(t *testing.T) {
	t.Parallel()
	rdisc6 := testnet.Tools(t, "rdisc6")[0]
	gw, host := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, gw, "gw0", []string{"fe80::1/64"}, host, "h0", []string{"fe80::2/64"})
	l := testLink()
	l.Device = "gw0"
	run(t, gw, l, &events{})
	var out string
	until(t, "rdisc6 gets an answer", func() bool { // the host's route to the group may come a moment after its link
		var err error
		out, err = testnet.Output(host, rdisc6, "-1", "-w", "5000", "h0")
		return err == nil
	})
	for _, want := range []string{
		"Hop limit                 :           64",
		"Router lifetime           :         2700 (0x00000a8c) seconds",
		"Prefix                   : 2001:db8:1::/64",
		"Autonomous address conf.:          Yes",
		"MTU                      :         1454 bytes",
		"Recursive DNS server     : 2001:db8:1::1",
		"DNS search list          : yapc.example",
		"from fe80::",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("rdisc6 does not say %q:\n%s", want, out)
		}
	}
}
