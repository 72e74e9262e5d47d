package mirror_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The glossary is written twice, for readers of the code and of the documents.
func TestGlossaryIsTheSameInTheDocuments(t *testing.T) {
	t.Parallel()
	entries := func(path, pattern string) [][2]string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var out [][2]string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			out = append(out, [2]string{m[1], m[2]})
		}
		return out
	}
	code := entries("doc.go", `(?m)^//   - ([a-z ]+): (.+)$`)
	docs := entries("../docs/glossary.md", `(?m)^- \*\*([a-z ]+)\*\*: (.+)$`)
	if diff := cmp.Diff(docs, code); diff != "" || len(code) < 25 {
		t.Errorf("%d words in doc.go; docs/glossary.md (-) and mirror/doc.go (+) differ:\n%s", len(code), diff)
	}
}
