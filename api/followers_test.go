package api

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
)

type noting struct {
	reader
	saved []mirror.FeedCursor
}

func (n *noting) SaveFeedCursor(_ context.Context, c mirror.FeedCursor) error {
	n.saved = append(n.saved, c)
	return nil
}

// A reader's place is noted by the name of its key and its account, once a minute.
func TestReadersOfTheFeedAreNoted(t *testing.T) {
	t.Parallel()
	var f followers
	store, at := &noting{}, time.Unix(1_800_000_000, 0)
	a := &access.Holder{}
	a.Name = "etl"
	for _, step := range []struct {
		holder         *access.Holder
		account, after string
		later          time.Duration
	}{
		{a, "", "742.19", 0},
		{a, "", "742.20", 59 * time.Second}, // noted a moment ago
		{a, "acct_1", "7", 0},
		{nil, "", "9", time.Hour}, // without a key there is no name
		{a, "", "743.21", time.Hour},
		{a, "acct_1", "", time.Hour},
		{a, "", "744.22@HISTORY", 2 * time.Hour}, // of a database that was put back
		{a, "acct_1", "8@HISTORY", 2 * time.Hour},
	} {
		f.note(t.Context(), store, step.holder, step.account, step.after, at.Add(step.later), zap.NewNop())
	}
	want := []mirror.FeedCursor{
		{Name: "api-etl", Position: mirror.FeedPosition{Text: "742.19", Number: 19}},
		{Name: "api-etl", Account: "acct_1", Position: mirror.FeedPosition{Text: "7", Number: 7}},
		{Name: "api-etl", Position: mirror.FeedPosition{Text: "743.21", Number: 21}},
		{Name: "api-etl", Account: "acct_1", Position: mirror.FeedPosition{}},
		{Name: "api-etl", Position: mirror.FeedPosition{Text: "744.22@HISTORY", Number: 22}},
		{Name: "api-etl", Account: "acct_1", Position: mirror.FeedPosition{Text: "8@HISTORY", Number: 8}},
	}
	if len(store.saved) != len(want) {
		t.Fatalf("%+v", store.saved)
	}
	for i := range want {
		if store.saved[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, store.saved[i], want[i])
		}
	}
}
