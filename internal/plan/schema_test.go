package plan

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/hotstage/hotstage/internal/golden"
)

func schemaTree(t *testing.T) map[string]any {
	t.Helper()
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaText(t *testing.T) { golden.Compare(t, "schema.json", Schema()) }

// misfits lists what of v the schema does not allow: of the draft, as much as Schema uses.
func misfits(s map[string]any, v any, path string) (bad []string) {
	if options, ok := s["anyOf"].([]any); ok {
		var all []string
		for _, one := range options {
			got := misfits(one.(map[string]any), v, path)
			if len(got) == 0 {
				return nil
			}
			all = append(all, got...)
		}
		return all
	}
	if !typeFits(s["type"], v) {
		return []string{fmt.Sprintf("%s: %T is not %v", path, v, s["type"])}
	}
	if words, ok := s["enum"].([]any); ok && !slices.Contains(words, v) {
		bad = append(bad, fmt.Sprintf("%s: %v is not one of %v", path, v, words))
	}
	switch v := v.(type) {
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			bad = append(bad, fmt.Sprintf("%s: %q is not of %s", path, v, p))
		}
	case float64:
		if lo, ok := s["minimum"].(float64); ok && v < lo {
			bad = append(bad, fmt.Sprintf("%s: %v is under %v", path, v, lo))
		}
		if hi, ok := s["maximum"].(float64); ok && v > hi {
			bad = append(bad, fmt.Sprintf("%s: %v is over %v", path, v, hi))
		}
	case []any:
		for i, item := range v {
			bad = append(bad, misfits(s["items"].(map[string]any), item, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case map[string]any:
		known, _ := s["properties"].(map[string]any)
		names, _ := s["propertyNames"].(map[string]any)
		more, open := s["additionalProperties"].(map[string]any)
		for key, item := range v {
			if names != nil {
				bad = append(bad, misfits(names, key, path+" key")...)
			}
			switch one, ok := known[key].(map[string]any); {
			case ok:
				bad = append(bad, misfits(one, item, path+"."+key)...)
			case open:
				bad = append(bad, misfits(more, item, path+"."+key)...)
			default:
				bad = append(bad, path+"."+key+": unknown")
			}
		}
		required, _ := s["required"].([]any)
		for _, key := range required {
			if _, ok := v[key.(string)]; !ok {
				bad = append(bad, path+": no "+key.(string))
			}
		}
	}
	return bad
}

func typeFits(want, v any) bool {
	var got string
	switch v := v.(type) {
	case nil:
		got = "null"
	case bool:
		got = "boolean"
	case string:
		got = "string"
	case float64:
		if got = "number"; v == float64(int64(v)) {
			got = "number integer"
		}
	case []any:
		got = "array"
	case map[string]any:
		got = "object"
	}
	switch want := want.(type) {
	case nil:
		return true
	case string:
		return slices.Contains(strings.Fields(got), want)
	case []any:
		return slices.ContainsFunc(want, func(w any) bool { return w == got })
	}
	return false
}

func asJSON(t *testing.T, src []byte) (v any) {
	t.Helper()
	text, err := yaml.YAMLToJSON(src)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestExamplesFitTheSchema(t *testing.T) {
	s := schemaTree(t)
	files, _ := filepath.Glob("../../examples/*.yaml")
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bad := misfits(s, asJSON(t, src), "$"); len(bad) > 0 {
			t.Errorf("%s: %v", file, bad)
		}
	}
	if bad := misfits(s, asJSON(t, []byte("event: {name: T, attendees: 0, dais: {}}\nsites: {Venue: {}}\n")), "$"); len(bad) != 3 {
		t.Errorf("three faults of shape, found: %v", bad)
	}
}

// at is a plan with text at a path such as "nodes.*.roles[]"; * is the name n.
func planAt(path, text string) string {
	parts := strings.Split(path, ".")
	src := text
	for i := len(parts) - 1; i >= 0; i-- {
		key := strings.NewReplacer("*", "n", "~", ".").Replace(parts[i])
		if name, isList := strings.CutSuffix(key, "[]"); isList {
			key, src = name, "["+src+"]"
		}
		src = "{" + key + ": " + src + "}"
	}
	return src
}

// Reader and schema know the same keys: an unknown key's fault names all that the reader
// knows. What the schema gives as default, example or word, the reader accepts.
func TestReaderAndSchemaAgree(t *testing.T) {
	mappings, values := 0, 0
	var walk func(s map[string]any, path string)
	walk = func(s map[string]any, path string) {
		if s["description"] == "" || s["description"] == nil {
			t.Errorf("%s: no description", path)
		}
		if anyOf, ok := s["anyOf"].([]any); ok {
			walk(anyOf[0].(map[string]any), path+"[]")
			return
		}
		join := func(key string) string { return strings.TrimPrefix(path+"."+key, ".") }
		if more, ok := s["additionalProperties"].(map[string]any); ok {
			key := "*"
			if names, _ := s["propertyNames"].(map[string]any); names["examples"] != nil {
				key = strings.ReplaceAll(fmt.Sprint(names["examples"].([]any)[0]), ".", "~")
			}
			walk(more, join(key))
		}
		if known, ok := s["properties"].(map[string]any); ok {
			mappings++
			src := "{zzzzzzzzzzzz: 1}"
			if path != "" {
				src = planAt(path, src)
			}
			_, _, faults := Parse([]byte(src), nil)
			i := slices.IndexFunc(faults, func(f Fault) bool { return f.Given == "zzzzzzzzzzzz" })
			if i < 0 {
				t.Errorf("%s: the reader has no mapping there: %v", path, faults)
			} else if diff := cmp.Diff(choices(sortedKeys(known)), faults[i].Allowed); diff != "" {
				t.Errorf("%s: (-schema +reader)\n%s", path, diff)
			}
			for key, one := range known {
				walk(one.(map[string]any), join(key))
			}
		}
		var good []any
		for _, from := range []string{"examples", "enum"} {
			more, _ := s[from].([]any)
			good = append(good, more...)
		}
		if preset, ok := s["default"]; ok {
			good = append(good, preset)
		}
		for _, g := range good {
			values++
			text := fmt.Sprint(g)
			if _, isText := g.(string); isText {
				text = fmt.Sprintf("%q", g)
			}
			src := planAt(path, text)
			r := &reader{}
			r.read(tree([]byte(src), r.tell))
			if len(r.faults) > 0 {
				t.Errorf("%s: the reader does not accept %v: %v", path, g, r.faults)
			}
			if bad := misfits(s, g, path); len(bad) > 0 {
				t.Error(bad)
			}
		}
	}
	walk(schemaTree(t), "")
	if mappings < 20 || values < 50 {
		t.Errorf("looked at %d mappings and %d values", mappings, values)
	}
}
