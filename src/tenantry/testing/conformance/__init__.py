"""The conformance suites for every implementation of `Backend`, `Store`, `ObjectStorage` and the company's repositories.

Each check is a coroutine function. A failed check raises AssertionError. The tables of checks serve as test parameters in
any test framework that can run coroutines::

    @pytest.mark.parametrize("check", STORE_CHECKS, ids=check_name)
    async def test_store(check):
        await check(lambda: MyStore(an_empty_database()))

    @pytest.mark.parametrize("check", REPOSITORY_CHECKS, ids=check_name)
    async def test_repositories(check, connected_and_migrated_backend):
        await check(connected_and_migrated_backend)

    @pytest.mark.parametrize("check", BACKEND_CHECKS, ids=check_name)
    async def test_backend(check, tmp_path):
        await check(lambda: MyBackend(an_empty_deployment()), tmp_path)

    @pytest.mark.parametrize("check", OBJECT_STORAGE_CHECKS, ids=check_name)
    async def test_object_storage(check):
        await check(MyObjectStorage(an_empty_bucket()))

A fake must pass its suite too, because `isinstance` with a protocol compares names, not signatures.
"""
