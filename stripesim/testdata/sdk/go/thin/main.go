// Command thin verifies and parses one thin event with the newest stripe-go; see
// ../../README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/stripe/stripe-go/v86"
)

func main() {
	var in struct{ Payload, Header, Secret, Base, Key string }
	must(json.NewDecoder(os.Stdin).Decode(&in))
	backends := stripe.NewBackendsWithConfig(&stripe.BackendConfig{URL: &in.Base, HTTPClient: http.DefaultClient, EnableTelemetry: stripe.Bool(false)})
	sc := stripe.NewClient(in.Key, stripe.WithBackends(backends))
	event, err := sc.ParseEventNotification([]byte(in.Payload), in.Header, in.Secret)
	must(err)
	n := event.GetEventNotification()
	fmt.Println("parsed", n.ID, n.Type, n.Livemode)
	whole, err := sc.V2CoreEvents.Retrieve(context.Background(), n.ID, nil)
	must(err)
	raw, ok := whole.(*stripe.V2CoreRawEvent)
	if !ok {
		panic(fmt.Sprintf("fetched a %T", whole))
	}
	fmt.Println("fetched", raw.ID, raw.Type)
	_, err = sc.ParseEventNotification(append([]byte(in.Payload), ' '), in.Header, in.Secret)
	fmt.Println("changed", err != nil)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
