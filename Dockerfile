# A static binary on an empty image: no shell, no package manager, not root.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath \
      -ldflags "-s -w -X github.com/creditmirror/creditmirror/app.version=${VERSION}" \
      -o /out/creditmirror ./cmd/creditmirror \
 && mkdir -p /out/data

FROM scratch
LABEL org.opencontainers.image.title="creditmirror" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/creditmirror /creditmirror
# The embedded database lives here; mount a volume to keep it.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
WORKDIR /data
ENV CREDITMIRROR_OPS_ADDR=:9090
EXPOSE 8080 8081 9090
ENTRYPOINT ["/creditmirror"]
CMD ["serve"]
