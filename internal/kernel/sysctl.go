//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Sysctl reads a kernel parameter as the calling thread's network namespace has it. The
// name is the path below /proc/sys, "net/ipv4/conf/eth1.101/forwarding": with slashes,
// since names of links have dots. The error of a parameter that this kernel or namespace
// does not have is fs.ErrNotExist.
func Sysctl(name string) (string, error) {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, cause(err))
	}
	return strings.TrimSpace(string(text)), nil
}

// SetSysctl writes a kernel parameter in the calling thread's network namespace. The error
// says what to type.
func SetSysctl(name, value string) error {
	f, err := os.OpenFile("/proc/sys/"+name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("set sysctl: %w; as root of the host: %s", cause(err), SysctlCommand(name, value))
	}
	return nil
}

// SysctlCommand is what a person types to set the parameter.
func SysctlCommand(name, value string) string {
	dotted := strings.NewReplacer("/", ".", ".", "/").Replace(name)
	if strings.ContainsAny(value, " \t") {
		value = `"` + value + `"`
	}
	return "sysctl -w " + dotted + "=" + value
}

// cause is err without the path, which the caller names better.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
