# A gRPC server on stock grpcio: every method of every service named below answers with this server's name and what it saw.
import json, sys, time
from concurrent import futures
import grpc

name = sys.argv[1]

def seen(context):
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    return json.dumps({"name": name, "metadata": metadata}).encode()

def unary(request, context):
    context.set_trailing_metadata((("x-trailing", name),))
    return seen(context)

def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "told by the application")

def slow(request, context):
    time.sleep(3)
    return seen(context)

def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number

def both(requests, context):
    for request in requests:
        yield request + b" from " + name.encode()

methods = {
    "Get": grpc.unary_unary_rpc_method_handler(unary),
    "Put": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}
server = grpc.server(futures.ThreadPoolExecutor(16))
for service in ("shop.Orders", "shop.Stock"):
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
server.add_insecure_port("[::]:7070")
server.start()
server.wait_for_termination()
