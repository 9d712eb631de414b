//! GRPCRoute with the stock Python implementation of gRPC on both sides, on Services and at a Gateway.

use weft_conformance::cases::grpcroute;

#[test]
fn grpcroute() {
    weft_conformance::place::run(&grpcroute::topology(), grpcroute::run);
}
