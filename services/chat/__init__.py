"""A chat for everyone, and rooms for those who are named in them."""

from .auth import authenticate as authenticate
from .endpoints import service as service
from .members import members as members
