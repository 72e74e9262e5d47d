package endpoint

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/stripesim"
)

func thinWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, stripesim.Options{})
	w.want.Thin = true
	return w
}

func TestThinDestinationIsExactAndIdempotent(t *testing.T) {
	t.Parallel()
	w := thinWorld(t)
	if got := w.problems(t); !slices.Equal(got, []string{"endpoint"}) {
		t.Fatalf("before: %v", got)
	}
	made := w.create(t)
	types := slices.Sorted(slices.Values(made.Endpoint.EnabledEvents))
	if !made.Created || !made.Endpoint.Thin || !slices.Equal(types, mirror.ThinTypes()) || len(w.secrets) != 1 || !strings.HasPrefix(made.Endpoint.ID, DestinationPrefix) {
		t.Fatalf("%+v, secrets %v", made, w.secrets)
	}
	if got := w.problems(t); got != nil {
		t.Fatalf("after: %v", got)
	}
	if again := w.create(t); again.Created || again.Endpoint.ID != made.Endpoint.ID || len(w.secrets) != 1 || len(again.Added)+len(again.Removed) > 0 {
		t.Fatalf("again: %+v", again)
	}
	w.receiver.know(w.secrets...)
	customer(t, w)
	if err := w.sim.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.receiver.got) != 1 || w.receiver.refused != 0 {
		t.Fatalf("got %v, refused %d; want the customer's creation", w.receiver.got, w.receiver.refused)
	}
	if _, err := w.service.Delete(t.Context(), "", made.Endpoint.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.problems(t); !slices.Equal(got, []string{"endpoint"}) {
		t.Fatalf("deleted: %v", got)
	}
	if _, err := w.service.Delete(t.Context(), "", made.Endpoint.ID); err == nil {
		t.Fatal("deleted twice")
	}
}

// A destination that was narrowed or disabled is mended.
func TestThinDestinationIsMended(t *testing.T) {
	t.Parallel()
	w := thinWorld(t)
	made := w.create(t)
	if _, err := w.client.UpdateEventDestination(t.Context(), "", made.Endpoint.ID, change("v1.customer.updated", "v1.invoice.paid")); err != nil {
		t.Fatal(err)
	}
	if got := w.problems(t); !slices.Equal(got, []string{"events"}) {
		t.Fatalf("narrowed: %v", got)
	}
	again := w.create(t)
	if len(again.Added) != len(mirror.ThinTypes())-1 || !slices.Equal(again.Removed, []string{"v1.invoice.paid"}) {
		t.Fatalf("%+v", again)
	}
	if got := w.problems(t); got != nil {
		t.Fatalf("mended: %v", got)
	}
}

// The check of either kind of endpoint names the other at the same URL.
func TestCheckTellsOfBothKinds(t *testing.T) {
	t.Parallel()
	w := thinWorld(t)
	thin := w.create(t)
	w.want.Thin = false
	snapshot := w.create(t)
	for _, c := range []struct {
		thin  bool
		other string
	}{{false, thin.Endpoint.ID}, {true, snapshot.Endpoint.ID}} {
		w.want.Thin = c.thin
		list, err := w.service.Check(t.Context(), w.want)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(list, func(f Finding) bool {
			return f.About == "both" && !f.Problem && strings.Contains(f.Text, c.other)
		}) {
			t.Errorf("thin %v: %+v does not name %s", c.thin, list, c.other)
		}
	}
	// Without the v2 API it says that it does not know, and continues.
	if err := w.sim.SetSwitches(stripesim.Switches{NoThinEvents: true}); err != nil {
		t.Fatal(err)
	}
	w.want.Thin = false
	list, err := w.service.Check(t.Context(), w.want)
	if err != nil || !slices.ContainsFunc(list, func(f Finding) bool { return f.About == "both" && strings.Contains(f.Text, "could not find out") }) {
		t.Errorf("%v: %+v", err, list)
	}
}

// Nothing proves a rotation of thin events: the second step wants to be forced.
func TestThinRotation(t *testing.T) {
	t.Parallel()
	w := thinWorld(t)
	old := w.create(t)
	if err := w.sim.FreezeClock(time.Now().Add(time.Hour)); err != nil { // Stripe's times have whole seconds
		t.Fatal(err)
	}
	made, err := w.service.Rotate(t.Context(), w.want, w.keep)
	if err != nil || made.ID == old.Endpoint.ID || len(w.secrets) != 2 {
		t.Fatalf("%+v, %v", made, err)
	}
	if _, err := w.service.Rotate(t.Context(), w.want, w.keep); !errors.Is(err, ErrUnderWay) {
		t.Fatalf("again: %v", err)
	}
	if _, _, err := w.service.FinishRotation(t.Context(), w.want, false); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Fatalf("unforced: %v", err)
	}
	kept, gone, err := w.service.FinishRotation(t.Context(), w.want, true)
	if err != nil || kept.ID != made.ID || len(gone) != 1 || gone[0].ID != old.Endpoint.ID {
		t.Fatalf("kept %+v, gone %+v, %v", kept, gone, err)
	}
}

// A destination whose secret could not be kept is taken back.
func TestThinSecretThatCannotBeKept(t *testing.T) {
	t.Parallel()
	w := thinWorld(t)
	_, err := w.service.Create(t.Context(), w.want, func(string) error { return errors.New("disk full") })
	if err == nil {
		t.Fatal("no error")
	}
	if all, _, err := w.service.List(context.Background(), "", true); err != nil || len(all) != 0 {
		t.Fatalf("%+v, %v", all, err)
	}
}

func change(types ...string) stripeapi.WebhookEndpointChange {
	return stripeapi.WebhookEndpointChange{EnabledEvents: types}
}
