package kea

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Place is where something stands in a file.
type Place struct {
	File      string
	Line, Col int // from 1; Col 0 is the whole line
	order     int // of reading, over all included files
}

// String is "file:line:column".
func (p Place) String() string {
	if p.Col == 0 {
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

func (p Place) compare(o Place) int { return cmp.Compare(p.order, o.order) }

// short is the line, with its file where that is another one.
func (p Place) short(file string) string {
	if p.File == file {
		return strconv.Itoa(p.Line)
	}
	return fmt.Sprintf("%d of %s", p.Line, p.File)
}

// Fault is what makes a file unreadable.
type Fault struct {
	At    Place
	Words string
}

// Error is the fault with its place.
func (f *Fault) Error() string { return f.At.String() + ": " + f.Words }

type kind int

const (
	object kind = iota
	array
	text
	number
	boolean
	null
)

// value is one value of the file, and whether the conversion has taken it.
type value struct {
	kind    kind
	text    string // decoded; of a number, true and false as written
	members []member
	items   []*value
	at      Place
	path    string
	taken   bool
}

type member struct {
	key string
	val *value
}

const (
	maxConfig  = 16 << 20 // bytes, with all included files: 100,000 reservations
	maxNesting = 64       // levels; Kea's own language has 8
	maxInclude = 10       // files deep, as Kea has it
)

// source is one file being read.
type source struct {
	name, src      string
	pos, line, col int
}

// parser reads JSON as Kea has it: comments of three kinds, a comma before a closing
// bracket, and <?include "file"?> wherever a space may stand.
type parser struct {
	stack   []*source // included files, the innermost last
	include Include
	size    int
	count   int
	fault   *Fault
}

// parse reads a file and all it includes. The error is a *Fault.
func parse(file string, src []byte, include Include) (*value, error) {
	p := &parser{include: include}
	p.push(file, src)
	v := p.value("$", 0)
	if p.fault == nil && p.peek() != 0 {
		p.fail("something stands after the end of the configuration: %s", p.around())
	}
	if p.fault != nil {
		return nil, p.fault
	}
	return v, nil
}

func (p *parser) push(name string, src []byte) {
	if p.size += len(src); p.size > maxConfig {
		if len(p.stack) == 0 {
			p.stack = []*source{{name: name, line: 1, col: 1}}
		}
		p.fail("the configuration is larger than %d MiB", maxConfig>>20)
		return
	}
	p.stack = append(p.stack, &source{name, string(src), 0, 1, 1})
}

func (p *parser) top() *source { return p.stack[len(p.stack)-1] }

func (p *parser) here() Place {
	s := p.top()
	return Place{s.name, s.line, s.col, p.count}
}

// fail keeps the first fault; after it nothing more is read.
func (p *parser) fail(format string, args ...any) {
	if p.fault == nil {
		p.fault = &Fault{p.here(), fmt.Sprintf(format, args...)}
	}
}

// around is what stands here, for an error.
func (p *parser) around() string {
	s := p.top()
	rest, _, _ := strings.Cut(s.src[s.pos:min(s.pos+20, len(s.src))], "\n")
	if rest == "" && s.pos >= len(s.src) {
		return "the end of the file"
	}
	return strconv.Quote(rest)
}

func (s *source) next(n int) {
	for range n {
		if s.src[s.pos] == '\n' {
			s.line, s.col = s.line+1, 0
		}
		s.pos++
		s.col++
	}
}

func (s *source) begins(with string) bool { return strings.HasPrefix(s.src[s.pos:], with) }

// skipTo moves behind the next end; false when there is none.
func (s *source) skipTo(end string) bool {
	i := strings.Index(s.src[s.pos:], end)
	if i < 0 {
		s.next(len(s.src) - s.pos)
		return false
	}
	s.next(i + len(end))
	return true
}

// peek skips what means nothing, opens included files, and returns the next byte: 0 at the
// end or after a fault.
func (p *parser) peek() byte {
	for p.fault == nil {
		s := p.top()
		switch {
		case s.pos >= len(s.src) && len(p.stack) > 1:
			p.stack = p.stack[:len(p.stack)-1]
		case s.pos >= len(s.src):
			return 0
		case strings.IndexByte(" \t\r\n", s.src[s.pos]) >= 0:
			s.next(1)
		case s.src[s.pos] == '#' || s.begins("//"):
			s.skipTo("\n")
		case s.begins("/*"):
			p.comment(s)
		case s.begins("<?"):
			p.included(s)
		case s.src[s.pos] == 0:
			p.fail("a zero byte; is this a text file?")
		default:
			return s.src[s.pos]
		}
	}
	return 0
}

func (p *parser) comment(s *source) {
	at := p.here()
	if s.next(2); !s.skipTo("*/") {
		p.fault = &Fault{at, "this comment has no end; allowed: /* … */"}
	}
}

func (p *parser) included(s *source) {
	rest, _, found := strings.Cut(s.src[s.pos:], "?>")
	name, ok := strings.CutPrefix(rest, "<?include")
	name = strings.TrimSpace(name)
	if !found || !ok || len(name) < 3 || name[0] != '"' || name[len(name)-1] != '"' || strings.Contains(name, "\n") {
		p.fail("not an include; allowed: <?include \"file\"?>")
		return
	}
	name = name[1 : len(name)-1]
	if len(p.stack) > maxInclude {
		p.fail("files include each other more than %d deep, %s last", maxInclude, name)
		return
	}
	if p.include == nil {
		p.fail("include %q: files can't be included here; put its text in this place", name)
		return
	}
	src, err := p.include(name)
	if err != nil {
		p.fail("include %q: %v", name, err)
		return
	}
	s.next(len(rest) + len("?>"))
	p.push(name, src)
}

func (p *parser) value(path string, depth int) *value {
	c := p.peek()
	p.count++
	v := &value{path: path, at: p.here()}
	if depth > maxNesting {
		p.fail("values stand in each other more than %d deep", maxNesting)
	}
	if p.fault != nil {
		return v
	}
	switch {
	case c == '{':
		p.object(v, depth)
	case c == '[':
		p.array(v, depth)
	case c == '"':
		v.kind, v.text = text, p.str()
	default:
		p.word(v)
	}
	return v
}

func (p *parser) object(v *value, depth int) {
	v.kind = object
	p.top().next(1)
	seen := map[string]int{}
	for p.more('}', len(v.members) > 0) {
		at := p.here()
		if p.peek() != '"' {
			p.fail("a name in quotes should stand here, not %s", p.around())
			return
		}
		key := p.str()
		if line, twice := seen[key]; twice {
			p.fault = &Fault{at, fmt.Sprintf("%q stands twice in this object, in line %d too", key, line)}
		}
		seen[key] = at.Line
		if p.peek() != ':' {
			p.fail("a colon should stand after %q, not %s", key, p.around())
			return
		}
		p.top().next(1)
		m := member{key, p.value(v.path+"."+key, depth+1)}
		at.order = m.val.at.order
		m.val.at = at
		v.members = append(v.members, m)
	}
}

func (p *parser) array(v *value, depth int) {
	v.kind = array
	p.top().next(1)
	for p.more(']', len(v.items) > 0) {
		v.items = append(v.items, p.value(fmt.Sprintf("%s[%d]", v.path, len(v.items)), depth+1))
	}
}

// more tells whether another one comes, and reads the comma before it or the end.
func (p *parser) more(end byte, comma bool) bool {
	c := p.peek()
	if comma && c == ',' {
		p.top().next(1)
		c = p.peek()
	} else if comma && c != end {
		p.fail("a comma or %q should stand here, not %s", string(end), p.around())
	}
	if p.fault != nil {
		return false
	}
	switch c {
	case end:
		p.top().next(1)
		return false
	case 0:
		p.fail("%q is missing: the file ends here", string(end))
		return false
	}
	return true
}

// str reads a string; the next byte is its quote.
func (p *parser) str() string {
	s, at := p.top(), p.here()
	end := s.pos + 1
	for end < len(s.src) && s.src[end] != '"' && s.src[end] != '\n' {
		if s.src[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s.src) || s.src[end] != '"' {
		p.fault = &Fault{at, "this string has no closing quote"}
		return ""
	}
	raw := s.src[s.pos+1 : end]
	s.next(end + 1 - s.pos)
	out, ok := unescape(raw)
	if !ok || !utf8.ValidString(out) {
		p.fault = &Fault{at, "this string is not UTF-8 or has an escape that JSON does not know"}
	}
	return out
}

func unescape(raw string) (string, bool) {
	if !strings.Contains(raw, `\`) {
		return raw, true
	}
	plain := map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			b.WriteByte(raw[i])
			continue
		}
		i++
		switch {
		case i < len(raw) && plain[raw[i]] != 0:
			b.WriteByte(plain[raw[i]])
		case i+4 < len(raw) && raw[i] == 'u':
			n, err := strconv.ParseUint(raw[i+1:i+5], 16, 16)
			if err != nil {
				return "", false
			}
			b.WriteRune(rune(n))
			i += 4
		default:
			return "", false
		}
	}
	return b.String(), true
}

// word reads a number, true, false or null.
func (p *parser) word(v *value) {
	s := p.top()
	end := s.pos
	for end < len(s.src) && strings.IndexByte("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", s.src[end]) >= 0 {
		end++
	}
	v.text = s.src[s.pos:end]
	_, err := strconv.ParseFloat(v.text, 64)
	switch {
	case v.text == "true" || v.text == "false":
		v.kind = boolean
	case v.text == "null":
		v.kind = null
	case err == nil && strings.IndexByte("-0123456789", v.text[0]) >= 0:
		v.kind = number
	default:
		p.fail("a value should stand here, not %s", p.around())
		return
	}
	s.next(end - s.pos)
}

// has tells whether the object has the key; take takes its value, nil when it has none.
func (v *value) has(key string) bool { return v.find(key) != nil }

func (v *value) find(key string) *value {
	if v == nil || v.kind != object {
		return nil
	}
	for _, m := range v.members {
		if m.key == key {
			return m.val
		}
	}
	return nil
}

func (v *value) take(key string) *value {
	m := v.find(key)
	if m != nil {
		m.taken = true
	}
	return m
}

// list takes the items of an array; nil for anything else.
func (v *value) list() []*value {
	if v == nil || v.kind != array {
		return nil
	}
	for _, i := range v.items {
		i.taken = true
	}
	return v.items
}

// takeAll takes the value and all in it.
func (v *value) takeAll() {
	v.taken = true
	for _, m := range v.members {
		m.val.takeAll()
	}
	for _, i := range v.items {
		i.takeAll()
	}
}

func (v *value) str() (string, bool) {
	if v == nil || v.kind != text {
		return "", false
	}
	return v.text, true
}

func (v *value) integer() (int64, bool) {
	if v == nil || v.kind != number {
		return 0, false
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	return n, err == nil
}

// is tells whether the value is that word: true, false.
func (v *value) is(word string) bool { return v != nil && v.kind == boolean && v.text == word }
