# docker build -t registry.example.com/shipbell:0.1.0 .
#
# One static file and the certificate authorities, for whatever architecture it is built on.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cp "$(scripts/build-static.sh)" /shipbell

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /shipbell /shipbell
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/shipbell"]
CMD ["run"]
