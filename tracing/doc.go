// Package tracing makes spans with OpenTelemetry's SDK and sends them to a
// collector by OTLP over HTTP, in its JSON encoding.
//
// The exporter is our own, because the official one links gRPC, whatever it sends
// by, and the image is to stay small. What it promises:
//
//   - Nothing waits for it: a span that finds the queue full is dropped, and every
//     span is counted once, by what became of it.
//   - A collector that is away is asked again, with pauses, for half a minute per
//     batch. Shutdown sends what waits, for as long as its context lasts.
//   - Attributes are ids, counts and words of closed sets: never a name, an amount,
//     a key or a body, and never the text of an error.
//
// Without a collector there is no tracer. Start and StartFrom take that for "off",
// and cost nothing then.
package tracing
