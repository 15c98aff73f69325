//go:build linux

package kernel_test

import (
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"golang.org/x/sys/unix"
)

// holding is set in the process that holds addresses until it is killed.
const holding = "HOTSTAGE_TEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holding) == "" {
		os.Exit(m.Run())
	}
	h, err := kernel.NewHolder("hold0")
	for _, a := range held {
		if err == nil {
			err = h.Hold(a)
		}
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("held\n")
	time.Sleep(time.Hour)
	h.Close()
}

var held = []netip.Addr{netip.MustParseAddr("10.9.0.53"), netip.MustParseAddr("2001:db8:9::53")}

// What a process holds is reached over any link, and gone the moment it is killed.
func TestHeldAddressesEndWithTheProcess(t *testing.T) {
	ping := testnet.Tools(t, "ping")[0]
	a, b := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, a, "a0", []string{"10.9.0.1/24", "2001:db8:9::1/64"}, b, "b0", []string{"10.9.0.2/24", "2001:db8:9::2/64"})
	testnet.Do(t, b, func() error { // nobody answers who has them, so say by whom they are reached
		for _, h := range held {
			via := netip.MustParseAddr("10.9.0.1")
			if h.Is6() {
				via = netip.MustParseAddr("2001:db8:9::1")
			}
			if err := kernel.AddRoute(kernel.Route{To: netip.PrefixFrom(h, h.BitLen()), Via: via, Device: "b0", Metric: 1024}, 0); err != nil {
				return err
			}
		}
		return nil
	})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holding+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 8)); n == 0 {
		t.Fatalf("the process does not hold: %v", err)
	}
	for _, h := range held {
		if out, err := testnet.Output(b, ping, "-c1", "-W2", h.String()); err != nil {
			t.Errorf("%s is not reached: %v\n%s", h, err, out)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	testnet.Do(t, a, func() error {
		if l, err := kernel.FindLink("hold0"); err == nil {
			t.Errorf("the killed process left %+v", l)
		}
		return nil
	})
	for _, h := range held {
		if out, err := testnet.Output(b, ping, "-c1", "-W1", h.String()); err == nil {
			t.Errorf("%s is still reached:\n%s", h, out)
		}
	}
}
