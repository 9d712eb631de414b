# A gRPC client on stock grpcio. One channel; prints one line per call: what was answered, or status code and message.
import json, queue, sys
import grpc

target, how, method, count = sys.argv[1:5]
metadata = [tuple(pair.split("=", 1)) for pair in sys.argv[5:]]
with grpc.insecure_channel(target) as channel:
    def report(call):
        try:
            call()
        except grpc.RpcError as error:
            print(error.code().name, error.details())
    if how == "unary":
        call = channel.unary_unary(method)
        def once():
            answer, ended = call.with_call(b"", timeout=20, metadata=metadata)
            answer = json.loads(answer)
            trailing = dict((k, v) for k, v in ended.trailing_metadata())
            shown = {k: v for k, v in answer["metadata"].items() if k.startswith("x-") and k != "x-forwarded-client-cert"}
            print(answer["name"], trailing.get("x-trailing"), json.dumps(shown, sort_keys=True) if metadata else "")
        for _ in range(int(count)):
            report(once)
    elif how == "count":
        report(lambda: print(b",".join(channel.unary_stream(method)(count.encode(), timeout=20)).decode()))
    elif how == "both":
        # Each message is sent only after the answer to the one before.
        waiting = queue.Queue()
        waiting.put(b"0")
        answers = channel.stream_stream(method)(iter(waiting.get, None), timeout=20)
        def talk():
            for number, answer in enumerate(answers, 1):
                print(answer.decode())
                waiting.put(b"%d" % number if number < int(count) else None)
        report(talk)
