# The resident memory of Weft's programs on this node, now and at most so far, in KiB, a line each.
import os

for process in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open("/proc/%s/status" % process) as file:
            fields = dict(line.split(":", 1) for line in file)
    except OSError:
        continue
    name = fields["Name"].strip()
    if name in ("weft-controller", "weft-agent", "weft-proxy"):
        print(name, *(fields[field].split()[0] for field in ("VmRSS", "VmHWM")))
