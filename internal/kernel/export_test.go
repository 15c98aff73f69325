//go:build linux

package kernel

// Raise is RaiseLimits for one parameter.
func Raise(name string, need int, stateFile string) (*Limits, error) {
	return raise([]limit{{name, need}}, stateFile)
}

// Kill ends the hold as SIGKILL does: the kernel closes the file.
func Kill(l *Limits) { l.file.Close() }
