//go:build linux

package venue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirPattern is how the folders of rehearsals are named below a base.
const dirPattern = "hotstage-rehearsal-*"

// MakeDir makes a folder for one rehearsal below base and removes those that dead ones left
// there. A rehearsal holds a lock (flock) on its folder, which the kernel gives back
// however it ends; so a folder without a lock has no owner. Keep the path short: nodes have
// sockets in it, and their paths end at 107 bytes. remove deletes the folder.
func MakeDir(base string) (dir string, remove func() error, err error) {
	if err := sweep(base); err != nil {
		return "", nil, fmt.Errorf("make folder for rehearsal: %w", err)
	}
	// Another rehearsal that starts now may take ours for a dead one before we hold the
	// lock; then we make another.
	for range 10 {
		dir, err := os.MkdirTemp(base, dirPattern)
		if err != nil {
			return "", nil, fmt.Errorf("make folder for rehearsal: %w", err)
		}
		lock, err := lockDir(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("make folder for rehearsal: %w", err)
		}
		return dir, func() error {
			defer lock.Close()
			return os.RemoveAll(dir)
		}, nil
	}
	return "", nil, fmt.Errorf("make folder for rehearsal: others keep removing it from %s", base)
}

// lockDir locks a folder that still stands at its path. Closing the file unlocks it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	held, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Lstat(dir); err == nil && !os.SameFile(held, there) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes our own folders below base that nobody has locked.
func sweep(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, dirPattern))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue // in use, or gone by now
		}
		err = os.RemoveAll(dir)
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove what a dead rehearsal left: %w", err)
		}
	}
	return nil
}
