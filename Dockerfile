# The gateway alone, in an otherwise empty image: no shell, no libc, no user but a number.
#
#   docker build -t replgate .
#   docker run -v "$PWD/gateway.toml":/etc/replgate/gateway.toml:ro -v "$PWD/certs/dc1":/etc/replgate/certs/dc1:ro \
#     --read-only --cap-drop ALL -p 7379:7379 replgate
#
# Files that are mounted must be readable by user 65532, the key by nobody else. The health
# check asks the gateway that runs with /etc/replgate/gateway.toml.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN scripts/static /out/usr/local/bin/replgate
# A new volume takes the owner and the mode of the folder that it is mounted on: these
# are what lets `replgate certs` write to volumes without being root.
RUN mkdir -p /out/etc/replgate /out/certs/ca /out/certs/dc1 /out/certs/dc2 && \
    chmod 700 /out/certs /out/certs/* && chown -R 65532:65532 /out/certs

FROM scratch
COPY --from=build /out /
USER 65532:65532
WORKDIR /etc/replgate
ENTRYPOINT ["/usr/local/bin/replgate"]
CMD ["run"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/replgate", "status"]
