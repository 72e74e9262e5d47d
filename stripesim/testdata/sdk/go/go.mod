module github.com/creditmirror/creditmirror/stripesim/testdata/sdk/go

go 1.26.0

require github.com/stripe/stripe-go/v86 v86.1.0
