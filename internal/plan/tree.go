package plan

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// value is one place of the plan file: a scalar, a list or a mapping, with where it stands.
type value struct {
	kind      kind
	line, col int
	path      string
	text      string // of a scalar
	items     []*value
	entries   []entry
}

type entry struct {
	key       string
	line, col int
	val       *value
}

// field is the value of the key in v, or v itself without one: the place to show for a
// fault of that key.
func (v *value) field(key string) *value {
	for _, e := range v.entries {
		if e.key == key {
			return e.val
		}
	}
	return v
}

// has tells whether v is a mapping with the key.
func (v *value) has(key string) bool { return v.field(key) != v }

type kind int

const (
	nothing kind = iota // an empty value or null
	scalar
	list
	mapping
)

func (k kind) String() string {
	return [...]string{"nothing", "a single value", "a list", "a mapping (key: value)"}[k]
}

// Bounds of a plan file; the largest plan of a real event that we know of has 300 lines.
const (
	maxSource = 1 << 20
	maxDepth  = 16
	maxValues = 20000
)

// tree reads YAML into values. Faults are told to tell; the result is nil when nothing
// could be read.
func tree(src []byte, tell func(Fault)) *value {
	if len(src) > maxSource {
		tell(Fault{Severity: Error, Words: fmt.Sprintf("the plan has %d bytes", len(src)), Allowed: fmt.Sprintf("up to %d", maxSource)})
		return nil
	}
	file, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f := Fault{Severity: Error, Words: "not YAML: " + err.Error(), Hint: "indent with spaces, and put a space behind each colon"}
		var at yaml.Error
		if errors.As(err, &at) {
			f.Words = "not YAML: " + at.GetMessage()
			if tok := at.GetToken(); tok != nil {
				f.Line, f.Column = tok.Position.Line, tok.Position.Column
			}
		}
		tell(f)
		return nil
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		n := 0
		for _, d := range file.Docs {
			if d.Body != nil {
				n++
			}
		}
		if n != 1 {
			tell(Fault{Severity: Error, Words: fmt.Sprintf("the file holds %d documents", n), Allowed: "one", Hint: "hotstage init writes a plan to start from"})
			return nil
		}
	}
	for _, d := range file.Docs {
		if d.Body != nil {
			b := builder{tell: tell}
			return b.build(d.Body, "$", 0)
		}
	}
	return nil
}

type builder struct {
	tell  func(Fault)
	count int
}

func (b *builder) fault(n ast.Node, path, words, allowed string) {
	f := Fault{Path: path, Severity: Error, Words: words, Allowed: allowed}
	if tok := n.GetToken(); tok != nil {
		f.Line, f.Column = tok.Position.Line, tok.Position.Column
	}
	b.tell(f)
}

// build makes values of a node; past the bounds it tells one fault and returns an empty value.
func (b *builder) build(n ast.Node, path string, depth int) *value {
	v := &value{path: path}
	if n == nil {
		return v
	}
	if tok := n.GetToken(); tok != nil {
		v.line, v.col = tok.Position.Line, tok.Position.Column
	}
	b.count++
	if depth > maxDepth || b.count > maxValues {
		if b.count <= maxValues || b.count == maxValues+1 {
			b.fault(n, path, "the plan is nested too deep or has too many values", fmt.Sprintf("%d levels, %d values", maxDepth, maxValues))
		}
		return v
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		v.kind = mapping
		for _, e := range n.Values {
			b.add(v, e, depth)
		}
		if len(v.entries) > 0 {
			v.line, v.col = v.entries[0].line, v.entries[0].col
		}
	case *ast.MappingValueNode:
		v.kind = mapping
		b.add(v, n, depth)
	case *ast.SequenceNode:
		v.kind = list
		for i, item := range n.Values {
			v.items = append(v.items, b.build(item, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
	case *ast.NullNode:
	case *ast.StringNode:
		v.kind, v.text = scalar, n.Value
	case *ast.LiteralNode:
		v.kind, v.text = scalar, n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		v.kind, v.text = scalar, n.GetToken().Value
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		b.fault(n, path, "anchors, aliases, tags and merge keys are not part of the plan language", "the value written out")
	default:
		b.fault(n, path, fmt.Sprintf("a plan can't hold a YAML %s", n.Type()), "values, lists and mappings")
	}
	return v
}

func (b *builder) add(v *value, e *ast.MappingValueNode, depth int) {
	key := e.Key.GetToken()
	if key == nil {
		return
	}
	name := key.Value
	b.count++
	v.entries = append(v.entries, entry{name, key.Position.Line, key.Position.Column, b.build(e.Value, v.path+"."+name, depth+1)})
	// The place of a mapping, and of an empty value, is its key.
	if last := v.entries[len(v.entries)-1].val; last.line == 0 || last.kind == nothing || last.kind == mapping || last.kind == list && len(last.items) == 0 {
		last.line, last.col = key.Position.Line, key.Position.Column
	}
}
