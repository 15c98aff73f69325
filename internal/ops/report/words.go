package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// count writes a whole number with a comma after each three digits.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// value writes a measured number with three digits that matter.
func value(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 100 || v == math.Trunc(v):
		return count(int64(math.Round(v)))
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// megabytes writes a size; processes are compared in MB.
func megabytes(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%.0f GB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.0f MB", float64(n)/(1<<20))
}

// span writes a duration for people: "1 min 12 s", "3.4 s".
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if s := int(d.Seconds()) % 60; s > 0 {
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), s)
	}
	return fmt.Sprintf("%d min", int(d.Minutes()))
}

// plural writes "1 device", "2,000 devices".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if one == "person" {
		return count(int64(n)) + " people"
	}
	return count(int64(n)) + " " + one + "s"
}

// readable turns a stable key into words: "dhcp_acks" is "dhcp acks".
func readable(key string) string { return strings.NewReplacer("_", " ", "-", " ").Replace(key) }
