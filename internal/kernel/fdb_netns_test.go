//go:build linux

package kernel_test

import (
	"net"
	"testing"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
)

// Two devices behind a bridge of two ports: each is found where it last spoke.
func TestFDB(t *testing.T) {
	node, one, two := testnet.Namespace(t), testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, node, "p1", nil, one, "eth0", []string{"10.1.0.2/24"})
	testnet.Veth(t, node, "p2", nil, two, "eth0", []string{"10.1.0.3/24"})
	var f *kernel.FDB
	testnet.Do(t, node, func() (err error) {
		if err := kernel.AddBridge("br101"); err != nil {
			return err
		}
		for _, p := range []string{"p1", "p2"} {
			if err := kernel.SetMaster(p, "br101"); err != nil {
				return err
			}
		}
		if err := kernel.SetUp("br101"); err != nil {
			return err
		}
		f, err = kernel.OpenFDB("br101")
		return err
	})
	defer f.Close()
	for port, ns := range map[string]*kernel.Namespace{"p1": one, "p2": two} {
		var mac [6]byte
		testnet.Do(t, ns, func() error {
			i, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			mac = [6]byte(i.HardwareAddr)
			c, err := net.Dial("udp4", "10.1.0.9:9") // nobody has it: a broadcast by ARP
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		})
		got := ""
		for end := time.Now().Add(5 * time.Second); got == "" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			got = f.Port(mac)
		}
		if got != port {
			t.Errorf("%x is behind %q, want %q", mac, got, port)
		}
	}
	if got := f.Port([6]byte{2, 9, 9, 9, 9, 9}); got != "" {
		t.Errorf("a device that never spoke is behind %q", got)
	}
	testnet.Do(t, node, func() error {
		if _, err := kernel.OpenFDB("br9"); err == nil {
			t.Error("a bridge that is not there opens")
		}
		return nil
	})
}
