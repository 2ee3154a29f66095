"""Bugs in who may come in, and in what is kept of what they did."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

BUGS: Final = (
    Bug(
        name="revoked-key-remembered",
        does="a process remembers keys that it has seen, so one that is revoked goes on",
        patches=(
            Patch(
                "app.access.authentication",
                """\
        async with self._database.reading() as transaction:
            key = await find_key(transaction, secret)
""",
                """\
        seen = self.__dict__.setdefault("_seen", {})
        if secret not in seen:
            async with self._database.reading() as transaction:
                seen[secret] = await find_key(transaction, secret)
        key = seen[secret]
""",
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION, only=("test_api_keys.py::test_a_revoked_key_is_refused_at_once_by_every_process",)
        ),
    ),
    Bug(
        name="expiry-off-by-one",
        does="a key is still taken at the instant at which it expires",
        patches=(Patch("app.access.authentication", "and now >= key.expires_at:", "and now > key.expires_at:"),),
        found_by=Run(Layer.INTEGRATION, only=("test_api_keys.py::test_a_key_ends_at_the_instant_that_it_says",)),
    ),
    Bug(
        name="foreign-session-shown",
        does="a user token reads the session of another user",
        patches=(
            Patch(
                "app.http.access",
                "if session is None or session.account_id != account_id_of(user_id):",
                "if session is None:",
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION,
            only=("test_access_matrix.py::test_a_user_token_reaches_its_users_own_and_nothing_else",),
        ),
    ),
    Bug(
        name="public-key-as-secret",
        does="a token of the customer's issuer is checked by the algorithm that it names itself",
        patches=(
            Patch(
                "app.access.issuer",
                "            return dict(jwt.decode(token, key, [key.algorithm_name], UNCHECKED))\n",
                """\
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            pem = key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            if header.get("alg") != "HS256":
                return dict(jwt.decode(token, key, [key.algorithm_name], UNCHECKED))
            head, body, mac = token.split(".")
            signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
            made = signer.sign(f"{head}.{body}".encode(), pem)
            if jwt.utils.base64url_encode(made).decode() != mac:
                raise not_valid("this token's signature is not right")
            return dict(jwt.decode(token, options={"verify_signature": False}))
""",
            ),
            Patch(
                "app.access.issuer",
                "return found if found is not None and found.algorithm_name == algorithm else None",
                "return found",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_api_keys.py::test_a_public_key_is_no_secret_and_of_one_kind",)),
    ),
    Bug(
        name="change-without-a-trace",
        does="a grant is made without a row in the audit log",
        patches=(
            Patch(
                "app.accounts.grants", "    book.audit(\n        Audit(\n", "    (lambda _: None)(\n        Audit(\n"
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_audit_log.py::test_a_change_leaves_a_row_that_says_who_and_why",)),
    ),
    Bug(
        name="secret-stored-as-it-is",
        does="the stored answer of a call that makes a key holds its secret",
        patches=(
            Patch(
                "app.http.answers",
                "return {**self.content, **dict.fromkeys(self.secrets)} if self.secrets else self.content",
                "return {**self.content, **self.secrets} if self.secrets else self.content",
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION, only=("test_api_keys.py::test_a_secret_is_given_again_for_an_hour_and_then_no_more",)
        ),
    ),
)
