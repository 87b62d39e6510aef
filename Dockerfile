# docker build -t registry.example.com/shipbell:0.1.0 .
#
# One static file, the certificate authorities and everybody's licences, for whatever architecture it is built on.

# An SBOM lists the crates of Cargo.lock: the one file in the image tells no scanner what it is made of.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cp "$(scripts/build-static.sh)" /shipbell && \
    mkdir /licenses && cp LICENSE NOTICE /licenses/ && scripts/third-party-licenses.sh >/licenses/THIRD-PARTY

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /licenses /licenses
COPY --from=build /shipbell /shipbell
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/shipbell"]
CMD ["run"]
