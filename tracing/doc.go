// Package tracing makes spans with OpenTelemetry's SDK and sends them to a
// collector by OTLP over HTTP, in its JSON encoding.
//
// The exporter is our own, because the official one links gRPC whatever protocol it
// uses, and the image should stay small. It guarantees:
//
//   - Nothing waits for it: a span is dropped if the queue is full, and every
//     span is counted once, by its outcome.
//   - If the collector is unavailable, a batch is retried, with pauses, for half a
//     minute. Shutdown sends the waiting spans for as long as its context lasts.
//   - Attributes are ids, counts and words of closed sets: never a name, an amount,
//     a key or a body, and never the text of an error.
//
// Without a collector there is no tracer. Start and StartFrom then do nothing,
// at no cost.
package tracing
