package architecture

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever looks for a page finds it in the index, in one place.
func TestEveryPageIsInTheIndexOnce(t *testing.T) {
	t.Parallel()
	index, err := os.ReadFile(filepath.Join(root, "docs/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 15 {
		t.Fatalf("only %d pages in docs", len(pages))
	}
	for _, page := range append(pages, "runbooks/README.md") {
		if name := strings.TrimPrefix(page, filepath.Join(root, "docs")+"/"); name != "README.md" {
			if n := strings.Count(string(index), "]("+name+")"); n != 1 {
				t.Errorf("docs/README.md links %d times to %s, want once", n, name)
			}
		}
	}
}
