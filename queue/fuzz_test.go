package queue_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/queue"
)

// FuzzMark checks that any key and ref come out of the scripts as they went in.
func FuzzMark(f *testing.F) {
	for _, seed := range [][2]string{{"acct_1|cus_1|balance", "evt_1"}, {"", ""}, {"%d{}\x00", "a\nb"}, {"\xff\r\n", "%1$^("}, {":1:0", ":"}} {
		f.Add(seed[0], seed[1])
	}
	c := dial(f, "")
	q, err := queue.New(c.Client, queue.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(q.Close)
	f.Fuzz(func(t *testing.T, key, ref string) {
		_, err := q.Mark(t.Context(), []queue.Mark{{Key: key, Ref: ref}, {Key: key, Ref: "second"}})
		if key == "" || len(key) > queue.MaxKey {
			if !errors.Is(err, queue.ErrInvalid) {
				t.Fatalf("key of %d bytes: %v", len(key), err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		claims, err := q.Claim(t.Context(), 2)
		if err != nil || len(claims) != 1 || claims[0].Key != key {
			t.Fatalf("claims %+v, %v", claims, err)
		}
		want := []string{ref, "second"}
		if ref == "" || ref == "second" || len(ref) > queue.MaxRef || strings.Contains(ref, "\n") {
			want = []string{"second"}
		}
		unnamed := ref == "" || len(ref) > queue.MaxRef || strings.Contains(ref, "\n")
		if !slices.Equal(claims[0].Refs, want) || claims[0].Unnamed != unnamed {
			t.Fatalf("refs %q, unnamed %v, want %q, %v", claims[0].Refs, claims[0].Unnamed, want, unnamed)
		}
		if again, err := q.Done(t.Context(), claims[0]); again || err != nil {
			t.Fatalf("done: %v, %v", again, err)
		}
		if dirty, err := q.Contains(t.Context(), []string{key}); err != nil || dirty[0] {
			t.Fatalf("still dirty: %v", err)
		}
	})
}
