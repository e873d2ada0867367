"""Models as other programs take them: ONNX graphs, PyTorch modules.

    graph          nodes and constants as they are written; knows no library
    functions      rows: activations and predictions as ONNX's operators
    kinds          rows: what each kind of layer is there
    recurrent      the rows of Elman, GRU and LSTM
    networks       any network as layers, with its parameters on the host
    tables         a table's columns, and scales
    deploy         a whole model as a graph, and as a file
    pipelines      an estimator within scikit-learn's pipelines, for skl2onnx
    estimators     the methods that estimators have of this
    torch_modules  what PyTorch has no module of
    to_torch       rows: what each kind of layer is in PyTorch
    from_torch     rows: what PyTorch's modules are here

Nothing here is imported before it is asked for.
"""
