"""Server-sent events with an asynchronous Django view on three workers, in one file.

``StreamingHttpResponse`` takes ``hub.sse_stream`` as it is. In a project, the views go into ``views.py`` and everything
above them is what ``settings.py`` and ``asgi.py`` say.

    HYPERN_SHM_NAME=demo uvicorn --workers 3 --timeout-graceful-shutdown 1 examples.django_sse:app

    curl -N 'http://127.0.0.1:8000/events?room=lobby&user=ada'
    curl -X POST 'http://127.0.0.1:8000/publish?room=lobby' -d 'hello'
    curl 'http://127.0.0.1:8000/members?room=lobby'
"""

from __future__ import annotations

import os
import sys

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from hypern_realtime_shm import HeartbeatConfig, RealtimeHub

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=sys.modules[__name__],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "for the example only"),
    USE_TZ=True,
)

INTERVAL = float(os.environ.get("INTERVAL", "15"))  # seconds between keep-alives; gone after three

hub = RealtimeHub(heartbeat_config=HeartbeatConfig(interval_secs=INTERVAL, timeout_secs=3 * INTERVAL))
hub.create_channel("lobby", 4096)


async def events(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    try:
        stream = hub.sse_stream(
            request.GET.get("room", "lobby"),
            request.GET.get("user", "anonymous"),
            {"pid": str(os.getpid())},
            last_event_id=request.headers.get("Last-Event-ID"),
        )
    except KeyError:
        raise Http404("there is no such room") from None
    return StreamingHttpResponse(stream, content_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def publish(request: HttpRequest) -> HttpResponse:
    try:
        heard = hub.publish(request.GET.get("room", "lobby"), request.body.decode())
    except KeyError:
        raise Http404("there is no such room") from None
    return JsonResponse({"heard": heard, "pid": os.getpid()})


async def members(request: HttpRequest) -> HttpResponse:
    present = hub.get_presence(request.GET.get("room", "lobby"))
    return JsonResponse({"members": {info.client_id: info.metadata for info in present}, "pid": os.getpid()})


urlpatterns = [path("events", events), path("publish", publish), path("members", members)]
app = get_asgi_application()
