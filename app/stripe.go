package app

import (
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// OpenStripe is Stripe's client alone, for commands that make a handful of calls:
// they need no shared budget, and so neither Redis nor a database.
func OpenStripe(cfg config.Config) (*stripeapi.Client, error) {
	client, err := stripeapi.New(stripeapi.Options{Key: cfg.StripeAPIKey.Reveal(), Base: cfg.StripeAPIBase, Version: cfg.StripeAPIVersion})
	if err != nil {
		return nil, err
	}
	return client.For(stripeapi.PurposeEndpoint), nil
}
