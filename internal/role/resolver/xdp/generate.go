package xdp

// The C program's object and the Go types of its maps; `make bpf` runs this and notes the
// sums of both, which a test compares.
//
//go:generate go tool -modfile=../../../../tools/go.mod bpf2go -go-package xdp -target bpfel -type address -type prefix -type port -type answer -type spent hot hot.c
