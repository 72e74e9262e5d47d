package app

import (
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
)

// A trace goes with an event as far as there is room; the event itself always does.
func TestRefOfATracedEvent(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for object, want := range map[string]string{
		"cus_1": trace, strings.Repeat("o", 142): trace, strings.Repeat("o", 143): "", strings.Repeat("o", 160): "",
	} {
		e := mirror.EventRef{ID: "evt_" + strings.Repeat("x", 24), Created: time.Unix(1700000000, 0).UTC(), Type: "customer.updated", Object: object, Trace: trace}
		text := refOf(e)
		got, err := mirror.ParseEventRef(text)
		if len(text) > queue.MaxRef || err != nil || got.ID != e.ID || got.Object != object || got.Trace != want {
			t.Errorf("an object of %d characters: %q (%d), %v", len(object), text, len(text), err)
		}
	}
}
