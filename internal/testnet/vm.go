//go:build linux

package testnet

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// KernelDir is where make packages unpacks Debian's cloud kernel, which has what the kernel
// at hand may lack.
const KernelDir = "/var/cache/hotstage/kernel"

// vmModules are loaded at the start of a machine, with what they depend on.
var vmModules = []string{
	"8021q", "bridge", "veth", "macvlan", "dummy", "tun", "vxlan", "wireguard", "sch_netem",
	"nf_tables", "nft_ct", "nft_nat", "nft_masq", "nft_chain_nat", "nft_limit", "nft_log", "nft_reject_inet", "nft_fib_inet", "nft_objref", "nft_numgen", "nft_hash",
	"nf_conntrack_netlink", "nfnetlink_cttimeout", "nf_log_syslog", "inet_diag",
}

// VM is a small machine under software emulation, with Debian's cloud kernel, 1 GiB of
// memory, two processors, no disk and no network but its own.
type VM struct {
	Files    map[string]string // programs and data: path in the machine -> file here
	Commands []string          // shell commands, one after another, as root
	Limit    time.Duration     // for all of it
}

// Said is what one command printed on standard output and standard error, and its exit code.
type Said struct {
	Text string
	Code int
}

// Run boots the machine, runs the commands and powers it off; it returns what each said. It
// needs qemu, a static busybox and the kernel in KernelDir (kind vm of HOTSTAGE_MUST).
func (v VM) Run(t testing.TB) []Said {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		Missing(t, "vm", "qemu-system-x86_64 is not installed: make packages")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		Missing(t, "vm", "busybox is not installed: make packages")
	}
	kernels, err := filepath.Glob(KernelDir + "/boot/vmlinuz-*-cloud-amd64")
	if err != nil || len(kernels) == 0 {
		Missing(t, "vm", "there is no kernel in "+KernelDir+": make packages")
	}
	slices.Sort(kernels)
	vmlinuz := kernels[len(kernels)-1]
	root, err := v.initramfs(busybox, strings.TrimPrefix(filepath.Base(vmlinuz), "vmlinuz-"))
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, root, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), v.Limit)
	defer stop()
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024", "-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot",
		"-kernel", vmlinuz, "-initrd", image, "-append", "console=ttyS0 panic=-1 quiet loglevel=1 random.trust_cpu=on")
	out, err := cmd.CombinedOutput()
	said := v.parse(string(out))
	if len(said) != len(v.Commands) {
		t.Fatalf("the machine ended after %d of %d commands (%v, %v):\n%s", len(said), len(v.Commands), err, ctx.Err(), out)
	}
	return said
}

var commandEnd = regexp.MustCompile(`(?s)<<<begin (\d+)>>>\r?\n(.*?)<<<end (\d+) exit (\d+)>>>`)

func (v VM) parse(console string) (all []Said) {
	for _, m := range commandEnd.FindAllStringSubmatch(console, -1) {
		code, _ := strconv.Atoi(m[4])
		all = append(all, Said{Text: strings.ReplaceAll(m[2], "\r\n", "\n"), Code: code})
	}
	return all
}

// initramfs packs busybox, the modules, the files and a first program that loads and runs
// them.
func (v VM) initramfs(busybox, release string) ([]byte, error) {
	modules, err := moduleFiles(filepath.Join(KernelDir, "lib/modules", release), vmModules)
	if err != nil {
		return nil, err
	}
	var init strings.Builder
	init.WriteString(`#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TMPDIR=/tmp
mkdir -p /proc /sys /tmp /run /var/lib /root /etc
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
ip link set lo up
`)
	archive := &cpio{}
	if err := archive.file("bin/busybox", busybox, 0o100755); err != nil {
		return nil, err
	}
	for _, m := range modules {
		name := filepath.Base(m)
		if err := archive.file("modules/"+name, m, 0o100644); err != nil {
			return nil, err
		}
		fmt.Fprintf(&init, "insmod /modules/%s\n", name)
	}
	for path, from := range v.Files {
		if err := archive.file(strings.TrimPrefix(path, "/"), from, 0o100755); err != nil {
			return nil, err
		}
	}
	for i, c := range v.Commands {
		fmt.Fprintf(&init, "echo '<<<begin %d>>>'\n( %s ) 2>&1\necho \"<<<end %d exit $?>>>\"\n", i, c, i)
	}
	init.WriteString("poweroff -f\n")
	archive.add("init", 0o100755, []byte(init.String()))
	return archive.end(), nil
}

// moduleFiles finds the modules and what they depend on, each after what it needs. A module
// that the kernel has built in has no file and is passed over.
func moduleFiles(dir string, wanted []string) (files []string, err error) {
	paths := map[string]string{}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(p), ".ko"); ok {
			paths[strings.ReplaceAll(name, "-", "_")] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("modules of the kernel: %w", err)
	}
	done := map[string]bool{}
	var take func(name string) error
	take = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		p := paths[name]
		if done[name] || p == "" {
			return nil
		}
		done[name] = true
		needs, err := moduleNeeds(p)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := take(n); err != nil {
				return err
			}
		}
		files = append(files, p)
		return nil
	}
	for _, w := range wanted {
		if err := take(w); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// moduleNeeds reads the names behind "depends=" and "softdep=pre:" of a module.
func moduleNeeds(path string) (names []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, s := range strings.Split(string(info), "\x00") {
		if d, ok := strings.CutPrefix(s, "depends="); ok && d != "" {
			names = append(names, strings.Split(d, ",")...)
		}
		if d, ok := strings.CutPrefix(s, "softdep=pre: "); ok {
			names = append(names, strings.Fields(d)...)
		}
	}
	return names, nil
}

// cpio is an archive in the "newc" format that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	b     bytes.Buffer
	made  map[string]bool
	inode int
}

func (c *cpio) file(name, from string, mode int) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	c.add(name, mode, data)
	return nil
}

// add appends a file, and before it the folders above it.
func (c *cpio) add(name string, mode int, data []byte) {
	if c.made == nil {
		c.made = map[string]bool{".": true, "dev": true}
		c.entry("dev", 0o040755, nil)
	}
	for i, r := range name {
		if dir := name[:i]; r == '/' && !c.made[dir] {
			c.made[dir] = true
			c.entry(dir, 0o040755, nil)
		}
	}
	c.entry(name, mode, data)
}

func (c *cpio) entry(name string, mode int, data []byte) {
	c.inode++
	// magic, inode, mode, uid, gid, links, time, size, four device numbers, length of the name, checksum
	fmt.Fprintf(&c.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.b.Write(data)
	c.pad()
}

func (c *cpio) pad() {
	for c.b.Len()%4 != 0 {
		c.b.WriteByte(0)
	}
}

func (c *cpio) end() []byte {
	c.entry("TRAILER!!!", 0, nil)
	return c.b.Bytes()
}
