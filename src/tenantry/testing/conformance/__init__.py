"""One suite for every back end: what a `Backend` and its `Store` promise, the repositories on top, and an `ObjectStorage`.

Each check is a coroutine function whose docstring says what it proves, and that fails with an AssertionError. The
tables are made for parametrizing, with any test framework that can run a coroutine::

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

A fake that stands in for the real thing passes it too: a runtime-checkable protocol sees names, not signatures.
"""
